"""What a judge of chat will cost, said before anything begins, and whether it answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from qforge.config.job import Engine, Job
from qforge.console import progress_line
from qforge.evaluation import mt_bench, questions, rubrics
from qforge.evaluation.chat_judge import Cost, Judge, rating

EXAMPLE = rubrics.SHOWN.format(
    question="How many days does a week have?",
    rubric="Says that a week has seven days, in one sentence.",
    answer="A week has seven days, from Monday to Sunday.",
)


def notes(job: Job) -> list[str]:
    """For the plan: how much the judge is asked."""
    return [f"eval.judge: {job.eval.judge.model} is asked in {cost.says()} ({what})" for cost, what in _parts(job)]


def greet(job: Job) -> None:
    """Let the judge rate an example, as often at once as it will be asked, and say how long it will take at that pace. Raises
    ValueError where it is of no use."""
    requests = sum(cost.requests for cost, _ in _parts(job))
    if not requests:
        return
    judge, at_once = Judge(job.eval.judge, pauses=()), min(job.eval.concurrency, requests)
    with progress_line("judge", job.eval.judge.model) as line:
        judge.greet()
        started = monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            found = list(pool.map(judge.ask, [{"role": "user", "content": EXAMPLE}] * at_once))
        seconds = monotonic() - started
        if judge.unanswered:
            raise ValueError(
                f"{judge.where} says a word, but rates no example: {judge.error}; mend that, or give another"
            )
        rated = rating(found[0])
        said = "gives an example no rating" if rated is None else f"rates an example with {rated:g}"
        minutes = requests * seconds / at_once / 60
        line.note = (
            f"{said}, {at_once} requests at once in {seconds:.1f} s; at that pace about {minutes:.1f} minutes, and more where "
            "it says more"
        )


def _parts(job: Job) -> Iterator[tuple[Cost, str]]:
    """Each cost, and what for: MT-bench, and every file with rubrics."""
    settings, compares = job.eval, "judge" in job.stages and not job.is_original
    served = job.runtime.engine is Engine.vllm and "evaluate" in job.stages
    if not served or settings.judge.base_url is None or job.model.speed_only:
        return
    if settings.judge.rates_mt_bench:
        alone = mt_bench.cost(settings.judge, compares=False)
        if compares:
            beside = mt_bench.cost(settings.judge, compares=True)
            yield alone + beside, "bf16 rated, then this checkpoint, rated and compared"
        else:
            yield alone, "this checkpoint rated"
    for task in rubrics.files(settings):
        alone, whose = rubrics.cost(settings, task), f"the rubrics of {questions.name_of(task)}"
        if compares:
            yield alone + alone, f"{whose}: answers of bf16 and of this checkpoint, the same answer once"
        else:
            yield alone, f"{whose}: answers of this checkpoint, the same answer once"
