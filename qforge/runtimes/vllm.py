"""Serve a checkpoint with vLLM, and ask the server something."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from qforge.config.job import Job
from qforge.config.secrets import value as secret_value
from qforge.envs.process import Environment
from qforge.runtimes import server
from qforge.runtimes.diagnose import ServerFailed
from qforge.runtimes.server import Server

MODEL = "model"  # the name that the server gives what it serves
QUESTION = "What is the capital of France?"
ANSWER = 48  # tokens
ON_EVERY_ROUTE = ("--middleware", "qforge.runtimes.server_key.ServerKey")

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


@contextmanager
def serving(
    job: Job, emulated: bool, artifact: Path, environment: Environment, log: Path, feed: Callable[[str], None]
) -> Iterator[Server]:
    """A server for `artifact` on 127.0.0.1. Raises ValueError for a taken port, StageError with a diagnosis otherwise."""
    port, key = server.free_port(job.serve.port), api_key(job)
    command = ["-m", "qforge.runtimes.vllm_server", *arguments(job, artifact, port)]
    where = (environment, port, key, job.runtime.start_timeout, log, feed)
    with server.running(command, environ(job, emulated, key), *where) as running:
        running.facts |= _facts(log.read_text(errors="replace"))
        yield running


def api_key(job: Job) -> str:
    """What clients of the job's server must know: as the user has it, or made up."""
    return secret_value(job.serve.api_key) if job.serve.api_key else secrets.token_urlsafe(16)


def arguments(job: Job, artifact: Path, port: int) -> list[str]:
    """vLLM's command line. --quantization for bf16 weights alone: of others vLLM detects it."""
    options = {
        "dtype": "bfloat16",
        "trust_remote_code": job.model.trust_remote_code or None,
        **job.engine_args,
    }
    flags = ["--model", str(artifact), "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    return [*flags, *ON_EVERY_ROUTE, *(flag for name, value in options.items() for flag in flags_of(name, value))]


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


def _facts(log: str) -> dict[str, Any]:
    facts: dict[str, Any] = {name: _first(pattern, log) for name, pattern in FACTS.items()}
    facts["kernels"] = sorted({line for line in map(_kernel, log.splitlines()) if line})
    return facts


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1].replace(",", "") if match else None


def _kernel(line: str) -> str | None:
    """The log's own words where it names a linear kernel or an MoE backend."""
    experts = r"'?\w+'? (?!Unquantized)\w+ MoE backend.*"  # of bf16 a second line names the class: TritonExperts
    match = re.search(rf"(?:Using|Selected) ('?\w*(?:Kernel|Experts)\b.*|{experts})", line)
    if "FP4" in line and (named := re.search(r"leveraging the (\w+) kernel", line)):
        return f"{named[1]} kernel for FP4 weights"  # all that is said of a ModelOpt checkpoint on Hopper
    return match[1].partition(" out of potential")[0].strip(" .") if match else None


def canary(server: Server) -> dict[str, Any]:
    """Ask the server something twice, greedily. Raises ServerFailed unless both answers are language.

    That they differ is said and is no fault: with other servers beside it on an H200, vLLM 0.33 answered otherwise the second
    time for 5 of 20 checkpoints of SmolLM2-135M (LOG, 2026-11-30), and it promises no more.
    """
    first, second = (answer(server, QUESTION, ANSWER) for _ in range(2))
    for text in (first, second):
        if fault := not_language(text):
            raise ServerFailed(
                f"the model answers {text[:120]!r}, which is {fault}: the checkpoint is damaged, or its format is too coarse "
                "for the model's weights",
                server.log,
            )
    same = first == second
    return {"question": QUESTION, "answer": first, "same_twice": same, **({} if same else {"second": second})}


def answer(server: Server, question: str, tokens: int) -> str:
    """The model's greedy answer; a base model goes on with a text of its own instead."""
    body = {"model": MODEL, "temperature": 0, "max_tokens": tokens}
    chat = {**body, "messages": [{"role": "user", "content": question}]}
    with httpx.Client(base_url=server.base_url, headers=server.headers, timeout=300, trust_env=False) as client:
        reply = client.post("/v1/chat/completions", json=chat)
        if reply.status_code == 400 and "chat template" in reply.text:  # a base model: let it continue a text
            reply = client.post("/v1/completions", json={**body, "prompt": "The capital of France is"})
            return str(_choice(server, reply)["text"])
        return str(_choice(server, reply)["message"]["content"])


def _choice(server: Server, reply: httpx.Response) -> Any:
    """The one answer that was asked for. Raises ServerFailed where the server says something else."""
    try:
        return reply.raise_for_status().json()["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ServerFailed(f"the server's answer is not valid ({reply.text[:120]!r})", server.log) from None


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
