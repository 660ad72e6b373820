"""Measure one checkpoint: served once for everything that needs a server, and not at all where all is known."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from qforge import interpreters, progress, provenance
from qforge.checkpoint import read_json
from qforge.config import ROOT, Engine, Job, repository_path
from qforge.envs import Environment
from qforge.report import terminal
from qforge.request import to_json
from qforge.runtimes import vllm
from qforge.store import key_of, locked, result

if TYPE_CHECKING:
    from qforge.plan import Plan
    from qforge.steps import Run

MEASUREMENTS = ("serve", "evaluate", "bench")
EVAL_ENV = "quant"  # holds lm-eval and the tokenizers


def measure(run: Run, plan: Plan, artifact: Path) -> dict[str, Any]:
    """Results of serve, evaluate and bench by name, each with its key, or `not_measured` and the reason."""
    results = {name: {"not_measured": why} for name in MEASUREMENTS if (why := _left_out(run.job, plan, name))}
    wanted = [name for name in MEASUREMENTS if name not in results]
    keys = _keys(run.job, plan, run.fingerprint(artifact)) if wanted else {}
    missing = [name for name in wanted if run.store.find(name, keys[name]) is None]
    for name in (n for n in wanted if n not in missing):
        progress.reused(f"{run.prefix}{name}", run.job.method.name)
    if missing:
        environment = interpreters.of_runtime(run.job)
        with _alone(run), _maybe_server(run, plan, artifact, environment, keys, missing) as server:
            for name in missing:
                run.store.get(name, keys[name], partial(_build, run, name, artifact, environment, server))
    for name in wanted:
        found = run.store.find(name, keys[name])
        assert found is not None
        results[name] = result(found)
    for name in MEASUREMENTS:
        run.write(f"{name}.json", results[name])
    return results


def not_measured(reason: str) -> dict[str, Any]:
    """The results of a checkpoint that cannot be measured here."""
    return {name: {"not_measured": reason} for name in MEASUREMENTS}


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """One measurement at a time on the same devices: two servers at once would spoil each other's speed."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    with locked(run.store.root / f"measuring-{socket.gethostname()}-{devices}.lock", waiting=_say_waiting):
        yield


def _say_waiting() -> None:
    progress.waiting("the devices of this machine")


def _keys(job: Job, plan: Plan, checkpoint: Any) -> dict[str, Any]:
    python = job.runtime.python
    env = interpreters.of_runtime(job).identity if python else interpreters.identity(str(job.runtime.env), job)
    served = {
        "checkpoint": checkpoint, "hw": job.hw, "runtime": job.runtime, "env": env,
        "machine": provenance.hardware(), "emulated": plan.emulated,
        "code": code("runtimes/vllm.py", "runtimes/vllm_server.py", "runtimes/fp4_emulation.py"),
    }  # fmt: skip
    tasks = [task for task in job.eval.tasks if task.endswith(".yaml")]
    beside = [repository_path(task).parent / data for task in tasks for data in _data_files(repository_path(task))]
    files = [*(repository_path(f) for f in [*(t.path for t in job.eval.texts.values()), *tasks]), *beside]
    texts = [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    evaluated = {"eval": job.eval, "texts": texts, "code": code("stages/evaluate.py", "perplexity.py")}
    return {
        "serve": served,
        "evaluate": {"served": key_of(served), "env": interpreters.identity(EVAL_ENV, job), **evaluated},
        "bench": {"served": key_of(served), "bench": job.bench, "code": code("stages/bench.py")},
    }


def _data_files(task: Path) -> list[str]:
    return list(yaml.safe_load(task.read_text())["dataset_kwargs"]["data_files"].values())


def code(*files: str) -> str:
    """A change in the code of a stage makes its earlier results another question's answers."""
    return hashlib.sha256(b"".join((ROOT / "qforge" / file).read_bytes() for file in files)).hexdigest()[:12]


def _left_out(job: Job, plan: Plan, stage: str) -> str | None:
    if stage not in job.stages:
        return f"stages={job.stages} leaves it out"
    if job.runtime.engine is Engine.transformers and stage != "evaluate":
        return "runtime=transformers is no server; speed is measured through vLLM only"
    if job.runtime.engine is Engine.vllm and "serve" not in job.stages:
        return f"stages={job.stages} leaves serve out, and runtime={job.runtime.name} measures through the server"
    if stage == "evaluate" and job.model.random:
        return "the weights are random: speed and memory only"
    if stage == "bench" and plan.emulated:
        return f"emulated: {plan.serving.reason}"
    return None


@contextmanager
def _maybe_server(
    run: Run, plan: Plan, artifact: Path, environment: Environment, keys: dict[str, Any], missing: list[str]
) -> Iterator[vllm.Server | None]:
    """A server, if the runtime has one and no other job has measured what is missing while this one waited."""
    if run.job.runtime.engine is Engine.vllm and any(run.store.find(name, keys[name]) is None for name in missing):
        with server(run, plan.emulated, artifact, environment) as running:
            yield running
    else:
        yield None


@contextmanager
def server(run: Run, emulated: bool, artifact: Path, environment: Environment) -> Iterator[vllm.Server]:
    """A server for `artifact`, shown in the terminal while it starts."""
    log = run.folder / f"{run.prefix}serve.log"
    what = f"{run.job.method.name} with {run.job.runtime.name}"
    with ExitStack() as until_done:
        with progress.line(f"{run.prefix}serve", what) as line:
            running = until_done.enter_context(vllm.serving(run.job, emulated, artifact, environment, log, line.feed))
            line.note = ", ".join([what, *running.facts["kernels"]])
        yield running


def _build(
    run: Run, stage: str, artifact: Path, environment: Environment, server: vllm.Server | None, out: Path
) -> None:
    if stage == "serve":
        assert server is not None
        canary = None if run.job.model.random else vllm.canary(server)
        facts = {**server.facts, "canary": canary, "resident_gib": vllm.resident_gib(server)}
        (out / "result.json").write_text(to_json(facts))
        return
    where = environment if stage == "bench" or server is None else interpreters.named(EVAL_ENV, run.job)
    with progress.line(f"{run.prefix}{stage}", run.job.method.name) as line:
        url, key = (server.base_url, server.api_key) if server else (None, "")
        run.stage(stage, where, out, line.feed, key, inputs={"artifact": str(artifact)}, server=url)
        found = read_json(out / "result.json")
        if server and stage == "bench":
            found["resident_gib"] = vllm.resident_gib(server)
            (out / "result.json").write_text(to_json(found))
        line.note = terminal.headline(stage, found)
