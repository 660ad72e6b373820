"""A proposal: one file of conf/experiment/, composed and planned as its own command line says, beside its twins."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from qforge.config.compose import compose
from qforge.config.job import Experiment, Job
from qforge.experiments import lists
from qforge.pipeline.checks import check
from qforge.plan import guide, plan
from qforge.plan.plan import Plan

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


def read(file: Path) -> Proposal:
    """Compose, check and plan the file. Raises one of COMPOSING for what must not become an experiment."""
    conf, name, overrides = conf_of(file), file.stem, _overrides(file)
    job = compose(conf, *overrides)
    experiment = _experiment(job)
    check(job)
    if job.method.name == guide.AUTO:
        raise ValueError("method=auto ranks the methods and runs none; name the one that the question is about")
    try:
        planned = plan.make(job, None)
    except ValueError as refusal:
        raise ValueError(f"`python run.py {shlex.join(overrides)}` cannot be planned: {refusal}") from refusal
    twins = list(_twins(conf, name, job, planned))
    if unexpected := [twin for twin, expected in twins if not expected]:
        raise ValueError(
            f"plans the same checkpoint under the same conditions as experiment={unexpected[0]}; change what it quantizes "
            "or measures, or, where that is what it shows, name the other in `expect`"
        )
    base = _base(file)
    rest = [o for o in overrides if o != f"experiment={name}"]
    before = compose(conf, *([f"experiment={base}"] if base else []), *rest)
    return Proposal(name, experiment, overrides, job, planned, base, before, [twin for twin, _ in twins])


def conf_of(file: Path) -> Path:
    """The configuration folder that a file of conf/experiment/ belongs to."""
    return file.resolve().parent.parent


def _overrides(file: Path) -> list[str]:
    """Of the command line in the file's first lines, which names the hardware, and the model where the demo's does not do."""
    text = file.read_text()
    if not text.startswith("# @package _global_"):
        raise ValueError("its first line must be `# @package _global_`: it sets keys of the whole configuration")
    match, own = COMMAND.search(text), f"experiment={file.stem}"
    overrides = shlex.split(match[1]) if match else []
    if own not in overrides:
        raise ValueError(f"does not name its command; add a line `# python run.py {own} hw=...` below the first")
    return overrides


def _experiment(job: Job) -> Experiment:
    experiment = job.experiment
    if experiment is None:
        raise ValueError("experiment: is missing; write name, question and expect before anything is measured")
    if empty := [key for key, value in vars(experiment).items() if not value.strip()]:
        raise ValueError(f"experiment.{empty[0]}: is empty; write it before anything is measured")
    return experiment


def _base(file: Path) -> str | None:
    defaults = [d.removeprefix("/experiment/") for d in lists.read(file).get("defaults", []) if isinstance(d, str)]
    return next((name for name in defaults if file.with_name(f"{name}.yaml").is_file()), None)


def _twins(conf: Path, name: str, job: Job, planned: Plan) -> Iterator[tuple[str, bool]]:
    """Experiments that plan the same checkpoint and ask the same of it, and whether one of the two expects that.

    Hardware and model of the command line belong to no experiment: both are planned on this one's.
    """
    mine = compose(conf, f"experiment={name}")
    own = _experiment(mine)
    for file in sorted((conf / "experiment").glob("*.yaml")):
        try:
            if file.stem == name or lists.members(file):
                continue
            other = compose(conf, f"experiment={file.stem}")
            experiment = _experiment(other)
        except COMPOSING:  # refused as a proposal of its own
            continue
        if own.name == experiment.name:
            raise ValueError(f"experiment.name={own.name}: is that of experiment={file.stem}; use another")
        there = replace(other, model=job.model, hw=job.hw, runtime=job.runtime)
        if _asked(mine) == _asked(other) and _same(planned, there):
            yield file.stem, _names(own, experiment) or _names(experiment, own)


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
