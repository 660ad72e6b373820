"""Serve all stages of a model that speaks with vLLM-Omni: its command line, its environment, and what it leaves behind."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from qforge.config.job import Job, Vendor
from qforge.envs import interpreters
from qforge.envs.ask import ask
from qforge.envs.process import Environment
from qforge.json_files import write_text
from qforge.runtimes import cpu_torch, request_ids, server, shared_memory, vllm
from qforge.runtimes.server import Server

PLUGINS = "vllm_omni_register_models"  # its models, in the group that VLLM_PLUGINS decides about
ON_CPU = "qforge_omni_cpu"


@contextmanager
def serving(
    job: Job, deploy: dict[str, Any], artifact: Path, environment: Environment, log: Path, feed: Callable[[str], None]
) -> Iterator[Server]:
    """A server for `artifact` on 127.0.0.1, deployed as `deploy` says. Raises as vllm.serving does."""
    port, key, mark = server.free_port(job.serve.port), vllm.api_key(job), f"qforge{secrets.token_hex(8)}"
    file = log.with_name(f"{log.stem}.deploy.yaml")
    write_text(file, json.dumps(deploy, indent=2))  # which YAML takes
    command = ["-m", "qforge.runtimes.vllm_omni_server", *arguments(job, artifact, file, port)]
    where, buffers = (environment, port, key, job.runtime.start_timeout, log, feed), set[Path]()
    try:
        with server.running(command, {**environ(job, key), request_ids.VARIABLE: mark}, *where) as running:
            buffers = shared_memory.held(running.group)
            yield running
    finally:
        shared_memory.free(mark, buffers)


def arguments(job: Job, artifact: Path, deploy: Path, port: int) -> list[str]:
    """vLLM-Omni's command line; options of its engines are in the deploy file."""
    timeout = str(job.runtime.start_timeout)
    return [
        "serve", str(artifact), "--omni", "--served-model-name", vllm.MODEL, "--host", "127.0.0.1", "--port", str(port),
        "--deploy-config", str(deploy), "--stage-init-timeout", timeout, "--init-timeout", timeout,
        "--middleware", f"{request_ids.__name__}.{request_ids.Marked.__name__}", *vllm.ON_EVERY_ROUTE,
    ]  # fmt: skip


def environ(job: Job, key: str) -> dict[str, str]:
    """The server's environment: vLLM's, and the plugins without which its engines do not know the model."""
    assert job.runtime.speech
    plugins = f"{PLUGINS},{ON_CPU}" if job.hw.vendor is Vendor.cpu else PLUGINS
    own = {**vllm.environ(job, False, key), "VLLM_PLUGINS": plugins, **job.runtime.speech.environ}
    return own | _beside_torch(job, own.get("PYTHONPATH"))


def inventory(job: Job) -> dict[str, Any]:
    """What the environment has, as `qforge.runtimes.inventory` finds it, or why it has no vLLM-Omni."""
    assert job.runtime.speech
    environment = interpreters.named(job.runtime.speech.env, job)
    theirs = {**environment.environ, **_beside_torch(job, environment.environ.get("PYTHONPATH"))}
    return {"versions": {}, **ask(replace(environment, environ=theirs), "qforge.runtimes.inventory", "vllm_omni")}


def _beside_torch(job: Job, path: str | None) -> dict[str, str]:
    """On a CPU what stands in for parts of CUDA builds, before what is on PYTHONPATH already."""
    if job.hw.vendor is not Vendor.cpu:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(cpu_torch.SITE), path]))}
