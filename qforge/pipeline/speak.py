"""A checkpoint lets its voice be heard: served with all its stages, asked aloud, and its text held against plain vLLM's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.job import Job
from qforge.console import print_waiting, progress_line
from qforge.envs import interpreters
from qforge.envs.process import StageError
from qforge.evaluation import speech
from qforge.json_files import read_json
from qforge.machine import identity
from qforge.pipeline.alone import alone
from qforge.pipeline.run import EVAL_ENV, Run
from qforge.pipeline.serve import print_address
from qforge.plan import support_matrix
from qforge.plan.plan import Plan
from qforge.plan.speech import Deployed
from qforge.report import terminal
from qforge.runtimes import vllm_omni
from qforge.runtimes.server import Server, wait_for_end
from qforge.store.results import code, result

LEAST = (
    0.25  # of the text that both engines begin with, on average: kernels round differently, so a later word may differ
)


def speak(run: Run, plan: Plan, artifact: Path, texts: Mapping[str, str] | None) -> dict[str, Any]:
    """speak.json: what the checkpoint says aloud; its sound lies beside it as speech-N.wav.

    `texts`: the greedy answers of plain vLLM in text, by question; none where it was not asked. Raises StageError where the
    answers are not those: then vLLM-Omni has loaded another model than vLLM, whatever it sounds like.
    """
    job = run.job
    deployed = plan.speech
    if deployed is None or "speak" not in job.stages:
        return {"not_measured": f"stages={job.stages} leaves it out"}
    key = _key(run, plan, artifact)

    def build(out: Path) -> None:
        with alone(run), server(run, plan, artifact) as running, progress_line(f"{run.prefix}speak", "") as line:
            where = interpreters.named(EVAL_ENV, job)
            inputs = {"artifact": str(artifact), "samples_per_code": str(deployed.samples_per_code)}
            run.stage("speak", where, out, line.feed, running, inputs=inputs)
            line.note = terminal.headline("speak", read_json(out / "result.json"))

    folder = run.get("speak", key, build, job.method.name)
    spoken = result(folder)
    for number, answer in enumerate(spoken["answers"], 1):
        file = f"{run.prefix}speech-{number}.wav"
        shutil.copyfile(folder / answer["file"], run.folder / file)
        answer["file"] = file
    spoken["text"] = _agreement(spoken["answers"], texts)
    return spoken


def questions(job: Job) -> list[str]:
    """What is asked."""
    return speech.questions(job.eval.speech.questions)[: job.eval.speech.limit]


def _key(run: Run, plan: Plan, artifact: Path) -> dict[str, Any]:
    job = run.job
    assert job.runtime.speech
    assert plan.speech
    return {
        "checkpoint": run.fingerprint(artifact), "job": decided_by(job, "speak"), "deploy": plan.speech.file,
        "env": interpreters.identity(job.runtime.speech.env, job), "questions": questions(job),
        "machine": identity.deciding(identity.machine()), "code": code("qforge.stages.speak", "qforge.runtimes.vllm_omni"),
    }  # fmt: skip


def _agreement(answers: list[dict[str, Any]], texts: Mapping[str, str] | None) -> dict[str, Any]:
    if texts is None:
        return {"not_measured": "plain vLLM was not asked"}
    said = {answer["question"]: answer["text"] for answer in answers}
    found = speech.agreement(said, texts)
    if found["alike"] < LEAST:
        question = found["differs"]
        raise StageError(
            f"speak: to {question!r} vLLM-Omni answers {said[question][:80]!r} and vLLM {texts[question][:80]!r}: it has "
            "loaded the checkpoint as something else; its version may not read this format, or not this ignore list"
        )
    return found


def serve(run: Run, plan: Plan, artifact: Path) -> None:
    """Serve all stages until Ctrl-C."""
    with server(run, plan, artifact) as running:
        print_address(running, run.job.serve.api_key)
        wait_for_end(running)


def check_runtime(run: Run, deployed: Deployed) -> None:
    """Refuse an environment without vLLM-Omni, or with one that reads this checkpoint wrongly, before minutes of starting."""
    job = run.job
    assert job.runtime.speech
    env = job.runtime.speech.env
    found = _inventory(run, env)
    if fault := found.get("fault"):
        raise ValueError(
            f"runtime={job.runtime.name}: vLLM-Omni cannot be imported in the environment {env} ({fault}); make it again "
            f"(qforge envs {env}), or give a Python that has it (+envs.{env}.python=PATH)"
        )
    version = found["versions"].get("vllm-omni", support_matrix.OMNI)
    wrong = support_matrix.defect(support_matrix.VLLM_OMNI, deployed.model_type, job.method.format, version)
    if wrong:
        raise ValueError(f"+envs.{env}.python: vLLM-Omni {version} there: {wrong.reason}; use {wrong.fix}")


def _inventory(run: Run, env: str) -> dict[str, Any]:
    """What the environment has: asked once, then known."""
    key = {
        "env": interpreters.identity(env, run.job), "engine": support_matrix.VLLM_OMNI,
        "machine": identity.deciding(identity.machine()), "code": code("qforge.runtimes.inventory"),
    }  # fmt: skip

    def asked() -> dict[str, Any]:
        with progress_line("check", f"the environment {env}"):
            return vllm_omni.inventory(run.job)

    return run.store.answer("probe", key, asked, lambda: print_waiting(f"the check of the environment {env}"))


@contextmanager
def server(run: Run, plan: Plan, artifact: Path) -> Iterator[Server]:
    """A server of all stages of `artifact`, shown in the terminal while it starts."""
    job = run.job
    assert job.runtime.speech
    assert plan.speech
    log = run.folder / f"{run.prefix}speak-server.log"
    where = interpreters.named(job.runtime.speech.env, job)
    with ExitStack() as until_done:
        with progress_line(f"{run.prefix}serve", f"{job.method.name} with vLLM-Omni") as line:
            starting = vllm_omni.serving(job, plan.speech.file, artifact, where, log, line.feed)
            running = until_done.enter_context(starting)
        yield running
