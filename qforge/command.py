"""The command: what the user asked for, which job or comparison that is, and how its end is told."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from qforge import attempts, guide
from qforge.checks import check
from qforge.config import Job
from qforge.envs import StageError
from qforge.pipeline import leave_row, original_works
from qforge.progress import console
from qforge.report import planned as plans
from qforge.report import unfinished
from qforge.steps import Run


@dataclass(frozen=True)
class Command:
    """What the user asked for: the job, how to compose it with other choices, and what was given as a list."""

    load: Callable[[], Job]
    again: Callable[..., Job]  # again("method=gptq", ...)
    several: dict[str, list[str]]  # hw=[h100,mi325x]: of which `load` holds the merger, which is neither

    def compose(self, *overrides: str) -> Job:
        """The job as asked for, or with other choices."""
        return self.again(*overrides) if overrides else self.load()


def start(command: Command, folder: Path) -> None:
    """Rank the methods (method=auto), or go the first way that works."""
    job, hardware = command.load(), command.several.get("hw", [])
    if job.method.name == guide.AUTO:
        return advise(command, hardware or [job.hw.name], Run(job, folder))
    if hardware:
        raise ValueError(
            f"hw=[{','.join(hardware)}]: a run is on one hardware; use method=auto plan_only=true to compare them, or "
            f"--multirun hw={','.join(hardware)}"
        )
    attempts.run(command.several.get("runtime", []), command.compose, leave_row, original_works, folder)


def advise(command: Command, hardware: list[str], run: Run) -> None:
    """The decision guide: a table in the terminal, and guide.json."""
    if not run.job.plan_only:
        raise ValueError(
            "method=auto ranks the methods and runs none; use plan_only=true, then the method of your choice"
        )
    check(run.job)
    choices = guide.choices(command.again, hardware, run.known_model())
    advice = guide.advice(choices, hardware)
    if not advice:
        raise ValueError(f"hw={','.join(hardware)}: no method serves {run.job.model.name} there: {choices[0].refusal}")
    plans.guide(choices, advice)
    run.write("guide.json", {"choices": [choice.summary() for choice in choices], "advice": advice})


def run(command: Command, folder: str, debug: bool) -> int:
    """Run the command's job; returns the exit code. One message says what was refused or what failed."""
    out = Path(folder)
    try:
        start(command, out)
    except (ValueError, OmegaConfBaseException) as error:
        return _end(out, "refused", text(error), 2, debug)
    except StageError as error:
        return _end(out, "failed", str(error), 1, debug)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        said = f"{error}; free some space and run again" if full else str(error)
        return _end(out, "failed", said, 2 if full else 1, debug)
    except KeyboardInterrupt:
        said = "what was finished is kept, and the same command goes on from there"
        _end(out, "interrupted", said, 130, debug)
        raise  # a sweep must not go on with its next row
    console.print(str(out), style="bold", markup=False)
    return 0


def text(error: Exception) -> str:
    """What was wrong, with the key, in one message."""
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    return str(error)


def _end(folder: Path, how: str, why: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    separator = ";" if how == "interrupted" else ":"
    console.print(f"{how}{separator} {why}", style="yellow" if how == "interrupted" else "bold red", markup=False)
    unfinished.leave(folder, "failed" if how == "interrupted" else how, f"{how}{separator} {why}")
    return code
