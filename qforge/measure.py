"""Measure one checkpoint: served once for everything that needs a server, and not at all where all is known."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from qforge import divergence, exposure, formats, interpreters, probe, progress, provenance, sampling, tasks
from qforge.checkpoint import read_json
from qforge.compat import NEWEST
from qforge.config import Engine, Job, repository_path
from qforge.envs import Environment
from qforge.evaluation import eval_files
from qforge.progress import console
from qforge.report import terminal
from qforge.request import to_json
from qforge.runtimes import vllm
from qforge.store import code, key_of, locked, result

if TYPE_CHECKING:
    from qforge.plan import Plan
    from qforge.steps import Run

MEASUREMENTS = ("serve", "evaluate", "bench")
EVAL_ENV = "quant"  # holds lm-eval and the tokenizers
EVALUATE = (
    "stages/evaluate.py",
    *(f"{part}.py" for part in ("perplexity", "scorers", "tasks", "answers", "chat", "long_context", "stability")),
)


def measure(run: Run, plan: Plan, artifact: Path) -> dict[str, Any]:
    """Results of serve, evaluate and bench by name, each with its key, or `not_measured` and the reason."""
    results: dict[str, Any] = {
        name: {"not_measured": why} for name in MEASUREMENTS if (why := _left_out(run.job, plan, name))
    }
    wanted = [name for name in MEASUREMENTS if name not in results]
    keys = _keys(run.job, plan, run.fingerprint(artifact)) if wanted else {}
    folders = {name: run.store.find(name, keys[name]) for name in wanted}
    missing = [name for name, folder in folders.items() if folder is None]
    for name, folder in folders.items():
        if folder:
            run.reuse(name, folder, run.job.method.name)
            results[name] = result(folder)
    if missing:
        environment = interpreters.of_runtime(run.job)
        with _alone(run), _maybe_server(run, plan, artifact, environment, keys, missing) as server:
            for name in missing:
                build = partial(_build, run, name, artifact, environment, server)
                results[name] = result(run.get(name, keys[name], build, run.job.method.name))
    elif "serve" in wanted:
        run.time.save(f"{run.prefix}server", f"server/{key_of(keys['serve'])}", results["serve"]["start_seconds"])
    if "evaluate" in wanted:
        results["evaluate"]["kv"] = _other_kv(run, plan, artifact)
    for name, text in results["evaluate"].get("texts", {}).items():
        text["seen"] = exposure.seen(run.job, run.job.eval.texts[name])
    for name in MEASUREMENTS:
        run.write(f"{name}.json", results[name])
    return results


def _other_kv(run: Run, plan: Plan, artifact: Path) -> dict[str, Any]:
    """The long context again, by KV cache dtype: each needs a server of its own, and nothing else is scored there."""
    job, found = run.job, {}
    quality = replace(
        job.eval, texts={}, tasks=[], kv_dtypes=[], divergence=replace(job.eval.divergence, windows=0),
        stability=replace(job.eval.stability, prompts=None),
    )  # fmt: skip
    for dtype in job.eval.kv_dtypes:
        runtime = replace(job.runtime, args={**job.runtime.args, "kv_cache_dtype": dtype})
        other = replace(job, eval=quality, runtime=runtime, stages=["serve", "evaluate"])
        measured = measure(run.beside(other, f"{run.prefix}kv-{dtype}-"), plan, artifact)
        found[dtype] = measured["evaluate"].get("long_context")
    return found


def compared(run: Run, measured: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """divergence.json: how far the model's distributions are from bf16's, or why that is not known."""
    sides = (measured["evaluate"], baseline["evaluate"])
    if missing := next((side["not_measured"] for side in sides if "not_measured" in side), None):
        found: dict[str, Any] = {"not_measured": missing}
    elif not run.job.eval.divergence.windows:
        found = {"not_measured": "eval.divergence.windows=0 leaves it out"}
    elif any(sides[1]["texts"][n]["windows_sha256"] != t["windows_sha256"] for n, t in sides[0]["texts"].items()):
        found = {"not_measured": "the two were not scored on the same windows"}
    else:
        ours, theirs = (run.store.root / "evaluate" / side["key"] for side in sides)
        texts = divergence.compare(ours, theirs, list(sides[0]["texts"]))
        found = {"top_k": run.job.eval.divergence.top_k, "texts": texts}
    run.write("divergence.json", found)
    return found


def not_measured(reason: str) -> dict[str, Any]:
    """The results of a checkpoint that cannot be measured here."""
    return {name: {"not_measured": reason} for name in MEASUREMENTS}


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """One measurement at a time on the same devices: two servers at once would spoil each other's speed."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    asked = monotonic()
    with locked(run.store.root / f"measuring-{socket.gethostname()}-{devices}.lock", waiting=_say_waiting):
        run.time.waited += monotonic() - asked
        yield


def _say_waiting() -> None:
    progress.waiting("the devices of this machine")


def check_runtime(run: Run, unpacked: bool = False) -> str:
    """Ask the runtime what it has, and refuse it before any work if that is not what the job needs; probe.json.

    `unpacked`: the checkpoint will be a plain bf16 one, which every runtime reads. Returns its vLLM's version, or the
    newest where it does not say.
    """
    job, found = run.job, probe.probe(run.job, run.store)
    run.write("probe.json", found)
    if job.artifact:
        config = read_json(run.given_artifact() / "config.json")
        probe.check(job, found, config.get("quantization_config", {}).get("quant_method"))
    else:
        probe.check(job, found, None if unpacked else formats.FORMATS[job.method.format].quant_method)
    console.print(f"  runtime    {job.runtime.name}: {probe.summary(found)}", style="dim", markup=False)
    return probe.vllm_version(found) or NEWEST


def _keys(job: Job, plan: Plan, checkpoint: Any) -> dict[str, Any]:
    env = interpreters.runtime_identity(job)
    served = {
        "checkpoint": checkpoint, "hw": job.hw, "runtime": job.runtime, "env": env,
        "machine": provenance.hardware(), "emulated": plan.emulated,
        "code": code("runtimes/vllm.py", "runtimes/vllm_server.py", "runtimes/fp4_emulation.py"),
    }  # fmt: skip
    files = [*map(repository_path, eval_files(job.eval).values()), *tasks.data_files(job.eval)]
    texts = [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    # what is done with a result does not decide it, and the long context by KV dtype has results of its own
    asked = replace(job.eval, adaptive=False, budget=1, kv_dtypes=[])
    evaluated = {"eval": asked, "texts": texts, "code": code(*EVALUATE)}
    return {
        "serve": served,
        "evaluate": {"served": key_of(served), "env": interpreters.identity(EVAL_ENV, job), **evaluated},
        "bench": {"served": key_of(served), "bench": job.bench, "code": code("stages/bench.py", "sampling.py")},
    }


def _left_out(job: Job, plan: Plan, stage: str) -> str | None:
    if stage not in job.stages:
        return f"stages={job.stages} leaves it out"
    if job.runtime.engine is Engine.transformers and stage != "evaluate":
        return "runtime=transformers is no server; speed is measured through vLLM only"
    if job.runtime.engine is Engine.vllm and "serve" not in job.stages:
        return f"stages={job.stages} leaves serve out, and runtime={job.runtime.name} measures through the server"
    if stage == "evaluate" and job.model.random:
        return "the weights are random: speed and memory only"
    if stage == "bench" and (plan.emulated or plan.simulated):
        return f"{plan.serving.how.value}: {plan.serving.reason}"
    return None


@contextmanager
def _maybe_server(
    run: Run, plan: Plan, artifact: Path, environment: Environment, keys: dict[str, Any], missing: list[str]
) -> Iterator[vllm.Server | None]:
    """A server, if the runtime has one and no other job has measured what is missing while this one waited."""
    if run.job.runtime.engine is Engine.vllm and any(run.store.find(name, keys[name]) is None for name in missing):
        with server(run, plan.emulated, artifact, environment) as running:
            run.time.spend(f"{run.prefix}server", f"server/{key_of(keys['serve'])}", running.facts["start_seconds"])
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
        facts = {
            **server.facts,
            "probe": probe.probe(run.job, run.store),
            "canary": None if run.job.model.random else vllm.canary(server),
            "resident_gib": sampling.resident_gib(server.group),
        }
        (out / "result.json").write_text(to_json(facts))
        return
    where = environment if stage == "bench" or server is None else interpreters.named(EVAL_ENV, run.job)
    with progress.line(f"{run.prefix}{stage}", run.job.method.name) as line:
        group = {"server_group": str(server.group)} if server else {}
        run.stage(stage, where, out, line.feed, server, inputs={"artifact": str(artifact), **group})
        line.note = terminal.headline(stage, read_json(out / "result.json"))
