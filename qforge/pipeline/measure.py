"""Measure one checkpoint: served once for everything that needs a server, and not at all where all is known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.evaluation import Text, eval_files
from qforge.config.job import Engine, Job
from qforge.config.places import given_path
from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.envs.process import Environment
from qforge.evaluation import answered, contamination, divergence, tasks
from qforge.json_files import read_json, write_json
from qforge.machine import identity, usage
from qforge.pipeline import calibrate, speak
from qforge.pipeline.alone import same, step, turns, whole
from qforge.pipeline.asked import journal, judgements, own_answers_names
from qforge.pipeline.run import EVAL_ENV, Run
from qforge.pipeline.serve import server
from qforge.plan.plan import Plan
from qforge.report import terminal
from qforge.runtimes import multimodal, probe, vllm
from qforge.runtimes.server import Server
from qforge.store.results import code, key_of, result

SERVING = tuple(
    f"qforge.runtimes.{name}" for name in ("vllm", "vllm_server", "server_key", "fp4_emulation", "multimodal")
)  # what decides what a server answers
MEASUREMENTS = ("serve", "evaluate", "bench")
TEXTS = "texts"  # the answers in text to what a model that speaks is asked aloud


def measure(run: Run, plan: Plan, artifact: Path, said: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """Results of serve, evaluate and bench by name, each with its key, or `not_measured` and the reason; of a model that is to
    speak those of speak, too. `said`: the files with what the baseline said (asked.said_by); none: this is the baseline."""
    asked = (*MEASUREMENTS, TEXTS) if "speak" in run.job.stages and run.job.speaks else MEASUREMENTS
    results: dict[str, Any] = {name: {"not_measured": why} for name in asked if (why := left_out(run.job, plan, name))}
    stages = [name for name in asked if name not in results]
    keys = _keys(run.job, plan, run.fingerprint(artifact), said) if stages else {}
    with ExitStack() as held:
        if None in _known(run, keys, stages).values():
            held.enter_context(same(run, key_of(keys["serve"])))
        folders = _known(run, keys, stages)
        missing = [name for name, folder in folders.items() if folder is None]
        for name, folder in folders.items():
            if folder:
                run.reuse(name, folder, run.job.method.name)
                results[name] = result(folder)
        if missing:
            environment = interpreters.of_runtime(run.job)
            held.enter_context(whole(run))
            server = held.enter_context(_maybe_server(run, plan, artifact, environment, keys, missing))
            for name in missing:
                build = partial(_build, run, plan, name, artifact, environment, keys, server, said)
                with nullcontext() if name == "bench" else step(run):  # which takes its turns itself
                    results[name] = result(run.get(name, keys[name], build, run.job.method.name))
        elif "serve" in stages:
            run.time.save(f"{run.prefix}server", f"server/{key_of(keys['serve'])}", results["serve"]["start_seconds"])
    if "evaluate" in stages:
        results["evaluate"]["kv"] = _other_kv(run, plan, artifact)
        if answers := answered.read(run.store.root / "evaluate" / results["evaluate"]["key"]):
            answered.write(run.folder / f"{run.prefix}{answered.FILE}", answers)
    if run.job.runtime.speech:
        results["speak"] = speak.speak(run, plan, artifact, results.pop(TEXTS, {}).get("answers"))
    for name, text in results["evaluate"].get("texts", {}).items():
        text["seen"] = _seen(run.job, run.job.eval.texts[name])
    write_results(run, results)
    return results


def _known(run: Run, keys: dict[str, Any], stages: list[str]) -> dict[str, Path | None]:
    """What the store has of `stages`."""
    return {name: run.store.find(name, keys[name]) for name in stages}


def write_results(run: Run, results: dict[str, Any]) -> None:
    """serve.json, evaluate.json and bench.json, and speak.json where there is one."""
    for name in results.keys() & {*MEASUREMENTS, "speak"}:
        run.write(f"{name}.json", results[name])


def _seen(job: Job, text: Text) -> dict[str, Any] | None:
    """What calibration has seen of a text; none where the method looks at none, or a given checkpoint's is not known."""
    if not job.reads_text:
        return None
    kinds = {calibration_text.kind for calibration_text in job.calib.texts.values()}
    return contamination.seen(given_path(text.path), text.kind, calibrate.files(job).values(), kinds)


def _other_kv(run: Run, plan: Plan, artifact: Path) -> dict[str, Any]:
    """The long context again, by KV cache dtype: each needs a server of its own, and nothing else is scored there."""
    job, scores = run.job, {}
    quality = replace(
        job.eval, texts={}, tasks=[], kv_dtypes=[], divergence=replace(job.eval.divergence, windows=0),
        own_answers=replace(job.eval.own_answers, prompts=None),
        stability=replace(job.eval.stability, prompts=None), judge=replace(job.eval.judge, base_url=None),
    )  # fmt: skip
    for dtype in job.eval.kv_dtypes:
        other = replace(job, eval=quality, kv=replace(job.kv, dtype=dtype), stages=["serve", "evaluate"])
        measured = measure(run.beside(other, f"{run.prefix}kv-{dtype}-"), plan, artifact)
        scores[dtype] = measured["evaluate"].get("long_context")
    return scores


def compared(run: Run, measured: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """divergence.json: how far the model's distributions are from bf16's, or why that is not known."""
    sides = (measured["evaluate"], baseline["evaluate"])
    if missing := next((side["not_measured"] for side in sides if "not_measured" in side), None):
        divergences: dict[str, Any] = {"not_measured": missing}
    elif not run.job.eval.divergence.windows:
        divergences = {"not_measured": "eval.divergence.windows=0 leaves it out"}
    elif any(sides[1]["texts"][n]["windows_sha256"] != t["windows_sha256"] for n, t in sides[0]["texts"].items()):
        divergences = {"not_measured": "the two were not scored on the same windows"}
    else:
        own, reference = (run.store.root / "evaluate" / side["key"] for side in sides)
        texts = divergence.compare(own, reference, [*sides[0]["texts"], *own_answers_names(*sides)])
        divergences = {"top_k": run.job.eval.divergence.top_k, "texts": texts}
    run.write("divergence.json", divergences)
    return divergences


def not_measured(reason: str) -> dict[str, Any]:
    """The results of a checkpoint that cannot be measured here."""
    return {name: {"not_measured": reason} for name in MEASUREMENTS}


def _keys(job: Job, plan: Plan, checkpoint: Any, said: Mapping[str, Path] | None = None) -> dict[str, Any]:
    served = {
        "checkpoint": checkpoint, "job": decided_by(job, "serve"), "env": interpreters.runtime_identity(job),
        "machine": identity.deciding(identity.machine()), "emulated": plan.emulated,
        "code": code(*SERVING),
    }  # fmt: skip
    files = [*map(given_path, eval_files(job.eval).values()), *tasks.data_files(job.eval)]
    evaluated = {
        "served": key_of(served), "job": decided_by(job, "evaluate"), "env": interpreters.identity(EVAL_ENV, job),
        "texts": [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files],
        "code": code("qforge.stages.evaluate", "qforge.evaluation.answer_metrics"),
    }  # fmt: skip
    evaluated |= {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in (said or {}).items()}
    benched = {"served": key_of(served), "job": decided_by(job, "bench"), "code": code(f"qforge.stages.{_timing(job)}")}
    if job.bench.trace:
        benched["trace"] = hashlib.sha256(given_path(job.bench.trace).read_bytes()).hexdigest()
    keys = {"serve": served, "evaluate": evaluated, "bench": benched}
    if plan.speech:
        keys[TEXTS] = {"served": key_of(served), "job": decided_by(job, TEXTS), "questions": speak.questions(job)}
    return keys


def _timing(job: Job) -> str:
    """The stage that times: a server's clients, or the library itself."""
    return "generate" if job.runtime.engine is Engine.transformers else "bench"


def left_out(job: Job, plan: Plan, stage: str) -> str | None:
    """Why a measurement is not made; none where it is."""
    if stage not in (*job.stages, TEXTS):
        return f"stages={job.stages} leaves it out"
    if (
        job.runtime.engine is Engine.transformers
        and stage != "evaluate"
        and not (stage == "bench" and job.runtime.timed)
    ):
        return "runtime=transformers does not serve; speed is measured through vLLM, or without a server by runtime.timed=true"
    if job.runtime.engine is Engine.vllm and "serve" not in job.stages:
        return f"stages={job.stages} leaves serve out, and runtime={job.runtime.name} measures through the server"
    if stage == "evaluate" and job.model.speed_only:
        return "the weights are random: speed and memory only"
    if stage == "bench" and (plan.emulated or plan.simulated):
        return f"{plan.serving.how.value}: {plan.serving.reason}"
    return None


@contextmanager
def _maybe_server(
    run: Run, plan: Plan, artifact: Path, environment: Environment, keys: dict[str, Any], missing: list[str]
) -> Iterator[Server | None]:
    """A server, if the runtime has one and no other job has measured what is missing while this one waited."""
    if run.job.runtime.engine is Engine.vllm and any(run.store.find(name, keys[name]) is None for name in missing):
        with ExitStack() as until_done:
            with step(run):
                running = until_done.enter_context(server(run, plan.emulated, artifact, environment))
            run.time.spend(f"{run.prefix}server", f"server/{key_of(keys['serve'])}", running.facts["start_seconds"])
            yield running
    else:
        yield None


def _build(
    run: Run, plan: Plan, stage: str, artifact: Path, environment: Environment, keys: dict[str, Any],
    server: Server | None, said: Mapping[str, Path] | None, out: Path,
) -> None:  # fmt: skip
    if stage == "serve":
        assert server is not None
        facts = {
            **server.facts,
            "probe": probe.probe(run.job, run.store),
            "canary": None if run.job.model.speed_only else vllm.canary(server),
            "multimodal": multimodal.ask(
                server, *(any(m.kind == kind for m in plan.modules) for kind in ("audio", "vision"))
            ),
            "resident_gib": usage.resident_gib(server.group),
        }
        write_json(out / "result.json", facts)
        return
    if stage == TEXTS:
        assert server is not None
        tokens = run.job.eval.speech.tokens
        answers = {question: vllm.answer(server, question, tokens) for question in speak.questions(run.job)}
        write_json(out / "result.json", {"answers": answers})
        return
    where = environment if stage == "bench" or server is None else interpreters.named(EVAL_ENV, run.job)
    more = {"server_group": str(server.group)} if server else {}
    if stage == "evaluate":
        more |= {"asked": str(journal(run, keys["serve"]))} if server else {}
        more |= {"judgements": str(judgements(run))} if server and run.job.eval.judge.base_url else {}
        more |= {name: str(file) for name, file in (said or {}).items()}
    waited = run.time.waited
    with progress_line(f"{run.prefix}{stage}", run.job.method.name) as line:
        run.stage(
            _timing(run.job) if stage == "bench" else stage,
            where,
            out,
            line.feed,
            server,
            inputs={"artifact": str(artifact), **more},
            devices=turns(run) if stage == "bench" else [],
        )
        line.waited = run.time.waited - waited
        line.note = terminal.headline(stage, read_json(out / "result.json"))
