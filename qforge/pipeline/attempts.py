"""What is tried when one way does not work: the runtimes that were given, and with on_failure=fallback another exporter.

The questions are those of a person with a checkpoint that does not load. Does this runtime serve the quantized model? If
not, does it serve the original? If it does, the checkpoint is at fault: quantize with another exporter. If it does not,
the runtime is at fault: take the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from qforge.config.job import Job, OnFailure
from qforge.console import console
from qforge.envs.process import StageError
from qforge.json_files import write_json
from qforge.pipeline.folder import written
from qforge.runtimes.diagnose import Diagnosis, ServerFailed

FILE = "attempts.json"


@dataclass
class Attempt:
    """One way that was tried and how it ended."""

    runtime: str
    method: str
    outcome: str = "ended"  # taken, refused, failed (in a stage), or ended with the run itself
    why: str = ""
    diagnosis: Diagnosis | None = None
    original_works: bool | None = None  # whether the same runtime serves the unquantized model; none: not asked


def run(
    runtimes: list[str],
    compose: Callable[..., Job],
    go: Callable[[Job, Path], None],
    original_works: Callable[[Job, Path, bool], bool],
    folder: Path,
) -> None:
    """Go the first way that works; <folder>/attempts.json has all that were tried. Raises the last one's error if none does.

    `original_works(job, folder, load)`: whether the job's runtime takes the unquantized model, by its plan or by a load.
    """
    tried: list[Attempt] = []
    ways = [[f"runtime={name}"] for name in runtimes] or [[]]
    while ways:
        way = ways.pop(0)
        job = _own_place(compose(*way)) if runtimes else compose(*way)
        attempt = Attempt(job.runtime.name, job.method.name)
        tried.append(attempt)
        try:
            go(job, folder)
            attempt.outcome, attempt.why = "taken", "plan, probe and load succeeded"
            return
        except (ValueError, StageError) as error:
            _note(attempt, error)
            other = (job.runtime.name, job.method.fallback)
            tried_ways = [(each.runtime, each.method) for each in tried]
            if job.on_failure is OnFailure.fallback and job.method.fallback and other not in tried_ways:
                attempt.original_works = original_works(job, folder, isinstance(error, ServerFailed))
                if attempt.original_works:
                    ways.insert(0, [*way, f"method={job.method.fallback}", "artifact=null"])
            if not ways or (attempt.outcome == "failed" and job.on_failure is OnFailure.stop):
                raise
            _say(attempt, ways[0])
            _set_aside(folder, len(tried))
        finally:
            if ways or len(tried) > 1 or attempt.outcome == "failed":
                write_json(folder / FILE, tried)


def _own_place(job: Job) -> Job:
    """runtime.python=PATH or runtime.container=IMAGE on the command line is for those that have no environment of their own,
    and a runtime with an image needs no path."""
    if job.runtime.env:
        return replace(job, runtime=replace(job.runtime, python=None, container=None))
    return replace(job, runtime=replace(job.runtime, python=None)) if job.runtime.container else job


def _note(attempt: Attempt, error: Exception) -> None:
    attempt.outcome, attempt.why = "failed" if isinstance(error, StageError) else "refused", str(error)
    attempt.diagnosis = error.diagnosis if isinstance(error, ServerFailed) else None


def _say(attempt: Attempt, following: list[str]) -> None:
    works = {True: "; the original works there", False: "; the original fails there too", None: ""}
    console.print(
        f"runtime={attempt.runtime} method={attempt.method} {attempt.outcome}: {attempt.why}"
        f"{works[attempt.original_works]}\nnext: {' '.join(following)}",
        style="yellow",
    )


def _set_aside(folder: Path, number: int) -> None:
    """What a failed attempt wrote, its logs above all, goes into a folder of its own."""
    aside = folder / f"attempt-{number}"
    aside.mkdir(exist_ok=True)
    for file in written(folder):
        if file.name != FILE:
            file.rename(aside / file.name)
