"""Serve a checkpoint with vLLM: start, wait until it is well, ask it something, stop it with all its processes."""

from __future__ import annotations

import json
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from qforge.config.job import Job
from qforge.config.secrets import value as secret_value
from qforge.envs import process
from qforge.envs.process import Environment, StageError
from qforge.machine.usage import members
from qforge.runtimes.diagnose import ServerFailed

MODEL = "model"  # the name that the server gives what it serves
QUESTION = "What is the capital of France?"

# What vLLM says of itself while it starts (kernels/linear/__init__.py, v1/worker, v1/core/kv_cache_utils.py)
FACTS = {
    "weights_gib": re.compile(r"Model loading took ([\d.]+) GiB"),
    "activation_gib": re.compile(r"([\d.]+) GiB for peak activation"),
    "cuda_graphs_gib": re.compile(r"([\d.]+) GiB for CUDAGraph memory"),
    "kv_cache_gib": re.compile(r"(?:Available KV cache memory: |(?:Explicitly|Auto) set \()([\d.]+)"),
    "kv_cache_dtype": re.compile(r"kv_cache_dtype=(\w+)"),
    "kv_cache_tokens": re.compile(r"KV cache size: ([\d,]+) tokens"),
    "version": re.compile(r"Initializing a V1 LLM engine \(v([^)]+)\)"),
}


@dataclass
class Server:
    """A running server and what it said of itself."""

    base_url: str
    api_key: str
    process: subprocess.Popen[bytes]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """Of its processes, as it says itself: in a container that is not the group of the command that started it."""
        match = re.search(r"^process group (\d+)$", self.log.read_text(errors="replace"), re.MULTILINE)
        return int(match[1]) if match else self.process.pid

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


@contextmanager
def serving(
    job: Job, emulated: bool, artifact: Path, environment: Environment, log: Path, feed: Callable[[str], None]
) -> Iterator[Server]:
    """A server for `artifact` on 127.0.0.1. Raises ValueError for a taken port, StageError with a diagnosis otherwise."""
    port = _port(job.serve.port)
    key = secret_value(job.serve.api_key) if job.serve.api_key else secrets.token_urlsafe(16)
    started = time.monotonic()
    with log.open("wb") as output:
        command = ["-m", "qforge.runtimes.vllm_server", *arguments(job, artifact, port)]
        with process.process(environment, command, environ(job, emulated, key), output.fileno()) as child:
            server = Server(f"http://127.0.0.1:{port}", key, child, log)
            _wait(server, job.runtime.start_timeout, feed)
            server.facts = {"start_seconds": time.monotonic() - started, **_facts(log.read_text(errors="replace"))}
            try:
                yield server
            except (httpx.HTTPError, StageError) as error:
                if _gone(server):  # then what the client says is not the cause
                    raise ServerFailed("the server ended while it was used", log) from None
                if isinstance(error, httpx.HTTPError):
                    reason = f"{type(error).__name__} {error}".strip()
                    raise ServerFailed(f"the server's answer is not valid ({reason})", log) from None
                raise


def _gone(server: Server, patience: float = 10) -> bool:
    """Whether the server has ended, or its engine has: a client notices first, and the API server lingers."""
    deadline = time.monotonic() + patience
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.base_url}/health", timeout=patience, trust_env=False).status_code == 200:
                return False
        except httpx.ReadTimeout:
            return False  # it hangs
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return True


def arguments(job: Job, artifact: Path, port: int) -> list[str]:
    """vLLM's command line. --quantization for bf16 weights alone: of others vLLM detects it."""
    options = {
        "dtype": "bfloat16",
        "trust_remote_code": job.model.trust_remote_code or None,
        **job.engine_args,
    }
    flags = ["--model", str(artifact), "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    return [*flags, *(flag for name, value in options.items() for flag in flags_of(name, value))]


def flags_of(name: str, value: Any) -> list[str]:
    """An option of vLLM as its command line has it; nothing for null, which leaves it out."""
    name = name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict | list) else str(value)]


def environ(job: Job, emulated: bool, api_key: str) -> dict[str, str]:
    """The server's environment; the key stays off the command line, where every user of the machine could read it."""
    return {
        "VLLM_API_KEY": api_key,
        "VLLM_PLUGINS": "qforge_fp4_emulation" if emulated else "",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        **job.runtime.environ,
    }


def check_port(port: int | None) -> None:
    """Raises ValueError where no server can listen on `port`."""
    _port(port)


def _port(port: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just left is free
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise ValueError(
                f"serve.port={port}: {error.strerror}; choose another, or leave it out for a free one"
            ) from None
        return int(probe.getsockname()[1])


def _wait(server: Server, seconds: int, feed: Callable[[str], None]) -> None:
    deadline = time.monotonic() + seconds
    with server.log.open(errors="replace") as log:
        while server.process.poll() is None:
            for line in log.readlines():
                feed(line)
            try:
                if httpx.get(f"{server.base_url}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            if time.monotonic() > deadline:
                processes = _processes(server.group)
                raise ServerFailed(
                    f"the server did not answer within runtime.start_timeout={seconds} s; {processes}", server.log
                )
            time.sleep(0.5)
    raise ServerFailed("the server ended while it started", server.log)


def _processes(group: int) -> str:
    """What the server's processes are doing, as psutil names it: stopped, sleeping, running."""
    states = []
    for member in members(group):
        with suppress(psutil.Error):  # it has ended meanwhile
            states.append(f"{member.name()} {member.status()}, {sum(member.cpu_times()[:2]):.0f} s of CPU")
    return "its processes: " + "; ".join(states)


def _facts(log: str) -> dict[str, Any]:
    facts: dict[str, Any] = {name: _first(pattern, log) for name, pattern in FACTS.items()}
    facts["kernels"] = sorted({line for line in map(_kernel, log.splitlines()) if line})
    return facts


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1].replace(",", "") if match else None


def _kernel(line: str) -> str | None:
    """The log's own words where it names a linear kernel or an MoE backend."""
    match = re.search(r"(?:Using|Selected) ('?\w*(?:Kernel|Experts)\b.*|'\w+' \w+ MoE backend.*)", line)
    if "FP4" in line and (named := re.search(r"leveraging the (\w+) kernel", line)):
        return f"{named[1]} kernel for FP4 weights"  # all that is said of a ModelOpt checkpoint on Hopper
    return match[1].partition(" out of potential")[0].strip(" .") if match else None


def wait_for_end(server: Server) -> None:
    """Wait as long as the server runs. Raises StageError when it ends by itself; `serving` adds the diagnosis."""
    server.process.wait()
    raise StageError("serve: the server ended")


def canary(server: Server) -> dict[str, Any]:
    """Ask the server something twice, greedily. Raises StageError unless the answer is language and the same twice."""
    first, second = (_answer(server) for _ in range(2))
    if fault := not_language(first):
        raise ServerFailed(
            f"the model answers {first[:120]!r}, which is {fault}: the checkpoint is damaged", server.log
        )
    if first != second:
        raise StageError(f"serve: greedy text differs: {first!r}, then {second!r}  (log: {server.log})")
    return {"question": QUESTION, "answer": first, "same_twice": True}


def _answer(server: Server) -> str:
    body = {"model": MODEL, "temperature": 0, "max_tokens": 48}
    chat = {**body, "messages": [{"role": "user", "content": QUESTION}]}
    with httpx.Client(base_url=server.base_url, headers=server.headers, timeout=300, trust_env=False) as client:
        reply = client.post("/v1/chat/completions", json=chat)
        if reply.status_code == 400 and "chat template" in reply.text:  # a base model: let it continue a text
            reply = client.post("/v1/completions", json={**body, "prompt": "The capital of France is"})
            return str(reply.raise_for_status().json()["choices"][0]["text"])
        return str(reply.raise_for_status().json()["choices"][0]["message"]["content"])


def not_language(text: str) -> str | None:
    """What is wrong with an answer that is no language; none where it may be one. Coarse on purpose."""
    words = text.split()
    if not words:
        return "empty"
    if sum(c.isspace() for c in text) > len(text) / 2:
        return "mostly blank"
    readable = sum(c.isalpha() or c.isspace() or c in ".,;:!?'\"-()0123456789" for c in text)
    if readable < 0.8 * len(text):
        return "mostly symbols"
    if len(words) >= 12 and len(set(words)) <= min(4, len(words) / 6):  # small base models repeat whole sentences
        return "the same words repeated"
    return None
