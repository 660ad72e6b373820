"""What a judge of chat will cost, said before anything begins, and whether it answers."""

from __future__ import annotations

from dataclasses import astuple

from qforge.config.job import Engine, Job
from qforge.console import progress_line
from qforge.evaluation import mt_bench
from qforge.evaluation.chat_judge import Cost, Judge


def notes(job: Job) -> list[str]:
    """For the plan: how much the judge is asked."""
    if not _judges(job):
        return []
    sides = "bf16 rated, then this checkpoint, rated and compared" if _compares(job) else "this checkpoint rated"
    return [f"eval.judge: {job.eval.judge.model} is asked in {_cost(job).says()} ({sides})"]


def greet(job: Job) -> None:
    """Ask the judge something small, and say how long it will take at that pace. Raises ValueError where it is of no use."""
    if not _judges(job):
        return
    with progress_line("judge", job.eval.judge.model) as line:
        seconds = Judge(job.eval.judge).greet()
        minutes = _cost(job).requests * seconds / job.eval.concurrency / 60
        line.note = (
            f"answers in {seconds:.1f} s; at that pace about {minutes:.1f} minutes, {job.eval.concurrency} requests at once, "
            "and more where it explains itself"
        )


def _judges(job: Job) -> bool:
    served = job.runtime.engine is Engine.vllm and "evaluate" in job.stages
    return served and job.eval.judge.base_url is not None and not job.model.speed_only


def _compares(job: Job) -> bool:
    return "judge" in job.stages and not job.is_original


def _cost(job: Job) -> Cost:
    alone = mt_bench.cost(job.eval.judge, compares=False)
    if not _compares(job):
        return alone
    beside = mt_bench.cost(job.eval.judge, compares=True)
    return Cost(*(a + b for a, b in zip(astuple(alone), astuple(beside), strict=True)))
