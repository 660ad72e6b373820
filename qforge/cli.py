"""The command line: what the user asks for, which job or comparison that is, and how its end is told.

`--help` pays for what this imports at the top: what runs a job is imported late.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from qforge.config import compose, overrides
from qforge.config.job import Job
from qforge.config.messages import message
from qforge.console import console
from qforge.experiments import lists
from qforge.json_files import read_json
from qforge.machine import hardware

if TYPE_CHECKING:
    from qforge.pipeline.run import Run

SWEEP = ("--multirun", "-m")
BUDGET = "budget"  # the search that is one run: a method (conf/method/)
HARDWARE, EXPERIMENT, METHOD, SEARCH, SWEEPER = "hw=", "experiment=", "method=", "search=", "hydra/sweeper="


@dataclass(frozen=True)
class Command:
    """What the user asked for: the job, how to compose it with other choices, and what was given as a list."""

    load: Callable[[], Job]
    recompose: Callable[..., Job]  # recompose("method=gptq", ...)
    lists: dict[str, list[str]]  # hw=[h100,mi325x]: of which `load` holds the merger, which is neither
    texts: list[str]  # every text of the configuration, paths among them, also of one that makes no job

    def compose(self, *overrides: str) -> Job:
        """The job as asked for, or with other choices."""
        job = self.recompose(*overrides) if overrides else self.load()
        if gates := self.lists.get("gate"):  # Hydra merges their criteria, and the last one's name stays
            job.gate.name = "+".join(gates)
        return job


def command_of(config: DictConfig) -> Command:
    """The command whose configuration Hydra has composed."""
    return Command(lambda: compose.typed(config), compose.recompose, compose.listed_values(), compose.texts(config))


def expand(arguments: list[str]) -> list[str]:
    """The command line as Hydra wants it: hw=auto, experiment=LIST and search=NAME replaced by what they stand for.

    Raises ValueError for a GPU that no file describes, for a list or a search without --multirun, which would be one run, and
    for a search beside another method.
    """
    arguments, sweep = [_at_home(argument) for argument in arguments], bool(set(SWEEP) & set(arguments))
    for argument in arguments:
        overrides.refuse(argument)
        if argument.startswith(METHOD) and argument != METHOD + BUDGET and SEARCH + BUDGET in arguments:
            raise ValueError(
                f"{SEARCH}{BUDGET} {argument}: the search is {METHOD}{BUDGET} itself; leave one of them out"
            )
    # argparse takes this one before the overrides, not amid them
    flags = [argument for argument in arguments if argument in SWEEP]
    return [*flags, *(_expanded(argument, sweep) for argument in arguments if argument not in SWEEP)]


def _expanded(argument: str, sweep: bool) -> str:
    if argument.startswith(HARDWARE):
        return _hardware(argument)
    if argument.startswith(EXPERIMENT):
        return _experiments(argument, sweep)
    if argument == SEARCH + BUDGET:
        return f"method={BUDGET}"
    if argument.startswith(SEARCH):
        if not sweep:
            raise ValueError(f"{argument}: runs one job after the other until one is accepted; add --multirun")
        return SWEEPER + argument.removeprefix(SEARCH)
    return argument


def _at_home(argument: str) -> str:
    """`verify=~/x` as the shell would have it: it leaves ~ alone behind a key, and Hydra cannot read it."""
    key, equals, value = argument.partition("=")
    return f"{key}={os.path.expanduser(value)}" if equals and value.startswith("~/") else argument


def _hardware(argument: str) -> str:
    """Every `auto`, also in a list or a sweep, replaced by the file for this machine; each hardware once.

    There is no file conf/hw/auto.yaml: Hydra allows no choice of a runtime (as hw=cpu makes) below an interpolated option.
    """
    value = argument.removeprefix(HARDWARE)
    names = value.strip("[]").split(",")
    if "auto" not in names:
        return argument
    known = ",".join(dict.fromkeys(hardware.detect() if name == "auto" else name for name in names))
    print(f"hw=auto: this machine is hw={known}", file=sys.stderr)
    return HARDWARE + (f"[{known}]" if value.startswith("[") else known)


def _experiments(argument: str, sweep: bool) -> str:
    """Every list of experiments replaced by what it lists."""
    names = argument.removeprefix(EXPERIMENT).split(",")
    rows = list(dict.fromkeys(row for name in names for row in lists.rows(name)))
    if rows != names and not sweep:
        raise ValueError(
            f"{argument}: is a list of {len(rows)} experiments; add --multirun, or choose one of {', '.join(rows)}"
        )
    return EXPERIMENT + ",".join(rows)


def start(command: Command, folder: Path) -> None:
    """Rank the methods (method=auto), or go the first way that works."""
    from qforge.pipeline import attempts
    from qforge.pipeline.pipeline import leave_row, original_works
    from qforge.pipeline.run import Run
    from qforge.plan import guide

    hardware_names = command.lists.get("hw", [])
    # of several the first stands for all: their merger would have the runtime of one and the vendor of another
    job = command.compose(*(f"hw={name}" for name in hardware_names[:1]))
    if job.method.name == guide.AUTO:
        return advise(command, hardware_names or [job.hw.name], Run(job, folder))
    if len(hardware_names) > 1:
        raise ValueError(
            f"hw=[{','.join(hardware_names)}]: a run is on one hardware; use method=auto plan_only=true to compare them, or "
            f"--multirun hw={','.join(hardware_names)}"
        )
    attempts.run(command.lists.get("runtime", []), command.compose, leave_row, original_works, folder)


def advise(command: Command, hardware_names: list[str], run: Run) -> None:
    """The decision guide: a table in the terminal, and guide.json."""
    from qforge.pipeline import fetch
    from qforge.pipeline.checks import check
    from qforge.plan import guide
    from qforge.plan.loads import loads
    from qforge.report import plan_table

    if not run.job.plan_only:
        raise ValueError(
            "method=auto ranks the methods and runs none; use plan_only=true, then the method of your choice"
        )
    check(run.job)
    choices = guide.choices(command.recompose, hardware_names, fetch.known_model(fetch.settle(run)))
    advice = guide.advice(choices, hardware_names)
    if not advice:
        raise ValueError(
            f"hw={','.join(hardware_names)}: no method serves {run.job.model.name} there: {choices[0].refusal}"
        )
    plan_table.guide(choices, advice)
    said = {"choices": [choice.summary() for choice in choices], "advice": advice, "loads": list(loads(choices))}
    run.write("guide.json", said)


def run(command: Command, folder: str, debug: bool) -> int:
    """Run the command's job; returns the exit code. One message says what was refused or what failed."""
    from qforge.envs.process import StageError
    from qforge.judge import goals
    from qforge.pipeline.folder import clear
    from qforge.store import locks

    out = Path(folder)
    try:
        clear(out, command.texts)
        start(command, out)
    except (ValueError, OmegaConfBaseException, YAMLError) as error:
        return _end(out, "refused", message(error), 2, debug)
    except StageError as error:
        return _end(out, "failed", str(error), 1, debug)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = f"{error}; free some space and run again" if full else str(error)
        return _end(out, "failed", reason, 2 if full else 1, debug)
    except KeyboardInterrupt:
        reason = "finished results are kept; run the same command again to continue"
        _end(out, "interrupted", reason, 130, debug)
        raise  # a sweep must not go on with its next row
    finally:
        locks.release()
    console.print(str(out), style="bold")
    file = out / "row.json"
    return 3 if file.exists() and goals.missed(read_json(file)) else 0


def _end(folder: Path, how: str, why: str, code: int, debug: bool) -> int:
    from qforge.report import unfinished

    if debug:
        traceback.print_exc()
    separator = ";" if how == "interrupted" else ":"
    console.print(f"{how}{separator} {why}", style="yellow" if how == "interrupted" else "bold red")
    with suppress(OSError):  # a disk that is full has no room for the row either, and that was said
        unfinished.leave(folder, "failed" if how == "interrupted" else how, f"{how}{separator} {why}")
    return code
