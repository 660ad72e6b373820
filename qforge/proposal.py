"""A proposal: one file of conf/experiment/, checked before anybody measures it.

    python -m qforge.proposal conf/experiment/x.yaml ...

Prints Markdown: what each asks and changes, its plan, the measured rows nearest to it, what it must still show. The exit code
is 2 if one is refused, whose part then says why. `make proposal` checks every file that a branch adds or changes.
"""

from __future__ import annotations

import functools
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qforge import command, experiments, guide, plan
from qforge.checks import check
from qforge.config import Experiment, Job
from qforge.plan import Plan
from qforge.report import proposed

ConfigStore.instance().store(name="schema", node=Job)
COMMAND = re.compile(r"^# python run\.py (.+)$", re.M)  # how an experiment says that it is run
COMPOSING = (ValueError, OmegaConfBaseException, HydraException)  # what a file's author may have done wrong


@dataclass(frozen=True)
class Proposal:
    """A file that may become an experiment, composed and planned as its own command line says."""

    name: str  # of the file
    experiment: Experiment
    overrides: list[str]  # of its command line
    job: Job
    plan: Plan
    base: str | None  # the experiment that it inherits from; none: the defaults
    before: Job  # the base under the same overrides
    twins: list[str]  # experiments that plan the same checkpoint under the same conditions, as one of the two says


def main(arguments: list[str]) -> int:
    """Check every file; returns the exit code."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    accepted = True
    for file in map(Path, arguments):
        try:
            text = _text(file)
        except COMPOSING as error:
            text, accepted = proposed.refused(file.stem, command.text(error)), False
        print(text)
    return 0 if accepted else 2


def _text(file: Path) -> str:
    names = _members(file)
    return proposed.several(file.stem, names) if names else proposed.markdown(read(file))


def _members(file: Path) -> list[str]:
    """What a list of experiments holds; nothing for an experiment. Raises ValueError for what is neither."""
    if file.resolve().parent.name != "experiment" or not (_conf(file) / "config.yaml").is_file():
        raise ValueError(f"{file}: is not in conf/experiment/, where Hydra looks; move it there")
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    names = experiments.members(file)
    missing = [name for name in names if not file.with_name(f"{name}.yaml").is_file()]
    if missing:
        raise ValueError(f"experiments: {missing[0]}: no such file in conf/experiment/")
    list(experiments.rows(file.stem, file.parent))  # refuses one that is part of itself
    return names


def read(file: Path) -> Proposal:
    """Compose, check and plan the file. Raises one of COMPOSING for what must not become an experiment."""
    conf, name, overrides = _conf(file), file.stem, _overrides(file)
    job = compose(conf, *overrides)
    asked = _experiment(job)
    check(job)
    if job.method.name == guide.AUTO:
        raise ValueError("method=auto ranks the methods and runs none; name the one that the question is about")
    try:
        planned = plan.make(job, None)
    except ValueError as refusal:
        raise ValueError(f"`python run.py {shlex.join(overrides)}` cannot be planned: {refusal}") from refusal
    twins = list(_twins(conf, name, job, planned))
    if unexpected := [twin for twin, known in twins if not known]:
        raise ValueError(
            f"plans the same checkpoint under the same conditions as experiment={unexpected[0]}; change what it quantizes "
            "or measures, or, where that is what it shows, name the other in `expect`"
        )
    base = _base(file)
    rest = [o for o in overrides if o != f"experiment={name}"]
    before = compose(conf, *([f"experiment={base}"] if base else []), *rest)
    return Proposal(name, asked, overrides, job, planned, base, before, [twin for twin, _ in twins])


@functools.cache
def compose(conf: Path, *overrides: str) -> Job:
    """The job that `python run.py OVERRIDES` would run."""
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        job: Any = OmegaConf.to_object(hydra.compose("config", list(overrides)))
    assert isinstance(job, Job)
    return job


def _conf(file: Path) -> Path:
    return file.resolve().parent.parent


def _overrides(file: Path) -> list[str]:
    """Of the command line in the file's first lines, which names the hardware, and the model where the demo's does not do."""
    text = file.read_text()
    if not text.startswith("# @package _global_"):
        raise ValueError("its first line must be `# @package _global_`: it sets keys of the whole configuration")
    found, own = COMMAND.search(text), f"experiment={file.stem}"
    overrides = shlex.split(found[1]) if found else []
    if own not in overrides:
        raise ValueError(f"does not say how it is run; add a line `# python run.py {own} hw=...` below the first")
    return overrides


def _experiment(job: Job) -> Experiment:
    asked = job.experiment
    if asked is None:
        raise ValueError("experiment: is missing; say name, question and expect, before anything is measured")
    if empty := [key for key, value in vars(asked).items() if not value.strip()]:
        raise ValueError(f"experiment.{empty[0]}: is empty; say it before anything is measured")
    return asked


def _base(file: Path) -> str | None:
    defaults = [
        d.removeprefix("/experiment/") for d in experiments.read(file).get("defaults", []) if isinstance(d, str)
    ]
    return next((name for name in defaults if file.with_name(f"{name}.yaml").is_file()), None)


def _twins(conf: Path, name: str, job: Job, planned: Plan) -> Iterator[tuple[str, bool]]:
    """Experiments that plan the same checkpoint and ask the same of it, and whether one of the two expects that.

    Hardware and model of the command line belong to no experiment: both are planned on this one's.
    """
    mine = compose(conf, f"experiment={name}")
    asked = _experiment(mine)
    for file in sorted((conf / "experiment").glob("*.yaml")):
        try:
            if file.stem == name or experiments.members(file):
                continue
            other = compose(conf, f"experiment={file.stem}")
            theirs = _experiment(other)
        except COMPOSING:  # refused as a proposal of its own
            continue
        if asked.name == theirs.name:
            raise ValueError(f"experiment.name={asked.name}: is that of experiment={file.stem}; use another")
        there = replace(other, model=job.model, hw=job.hw, runtime=job.runtime)
        if _asked(mine) == _asked(other) and _same(planned, there):
            yield file.stem, _names(asked, theirs) or _names(theirs, asked)


def _asked(job: Job) -> tuple[Any, ...]:
    """What decides an experiment's numbers, beside which modules are packed."""
    calib = job.calib if job.method.calibrated else None
    return (job.model, job.method, calib, job.hw, job.runtime, job.eval, job.bench, job.gate, job.stages)


def _same(planned: Plan, other: Job) -> bool:
    try:
        return plan.make(other, None).identity() == planned.identity()
    except ValueError:  # cannot be planned there at all
        return False


def _names(one: Experiment, other: Experiment) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(other.name)}(?![\w-])", one.expect) is not None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
