"""Which parts of a model lose most in 4 bits, and which exemptions a budget of bytes buys best.

The measurement is a stage (stages/sensitivity.py). The choice is greedy: the largest loss saved per byte first, as long as
the budget lasts. If the savings of parts added up, no other choice within the budget would save more than this one and the
first part that did not fit together (Dantzig 1957). They do not quite add up: evaluate says what the choice is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from qforge.config.job import Job
from qforge.models.formats import FORMATS
from qforge.models.modules import BESIDE
from qforge.models.parts import Part, parts
from qforge.plan.exemptions import waits
from qforge.plan.plan import Plan

STAGE = "sensitivity"


@dataclass(frozen=True)
class Loss:
    """A part of the model, and KL to bf16 in nats per token."""

    part: str
    kind: str
    block: int | str
    alone: float  # with nothing else quantized
    saved: float  # by leaving it in bf16, with everything else quantized
    extra_bytes: int  # that this costs
    patterns: list[str]
    exempted: bool = False


def requested(job: Job) -> bool:
    """Whether sensitivity is to be measured: as a stage, or because a rule waits for it."""
    return STAGE in job.stages or any(map(waits, job.exempt.values()))


def nothing_else(job: Job) -> bool:
    """Whether the run ends with it, without a checkpoint."""
    return STAGE in job.stages and set(job.stages) <= {STAGE, "report"} and not job.artifact


def refuse(job: Job, planned: Plan) -> None:
    """Raises ValueError for towers, for experts that cannot be replaced one by one, and for a budget that buys nothing, or
    everything."""
    if requested(job) and any(m.kind in BESIDE for m in planned.modules):
        raise ValueError(
            f"model={job.model.name}: it has towers, and sensitivity replaces weights of models of text only; use "
            "exempt=boundary"
        )
    stacked = next((m for m in planned.modules if m.stack > 1 and m.linear), None)
    if requested(job) and stacked:
        raise ValueError(
            f"model={job.model.name}: {stacked.name} holds all experts of its layer in one tensor, whose rounding sensitivity "
            "does not measure; use exempt=boundary"
        )
    if job.sensitivity.budget_gib is None or not requested(job):
        return
    costs = [_extra(part, planned) for part in parts_of(job, planned)]
    key, least = f"sensitivity.budget_gib={job.sensitivity.budget_gib}", min(costs) / 2**30
    if budget_bytes(job) < min(costs):
        raise ValueError(
            f"{key}: the smallest {job.sensitivity.unit.value} costs {least:.2g} GiB more in bf16; use more than that"
        )
    if budget_bytes(job) >= sum(costs):
        raise ValueError(
            f"{key}: leaving everything in bf16 costs {sum(costs) / 2**30:.2g} GiB more, so everything fits; use "
            "less, or method=bf16"
        )


def choose(losses: Sequence[Loss], budget: int) -> list[Loss]:
    """All of them, the largest saving per byte first; exempted is what the budget, in bytes, buys in that order."""
    chosen, left = [], budget
    for loss in sorted(losses, key=lambda each: each.saved / each.extra_bytes, reverse=True):
        buy = loss.saved > 0 and loss.extra_bytes <= left
        left -= loss.extra_bytes if buy else 0
        chosen.append(replace(loss, exempted=buy))
    return chosen


def parts_of(job: Job, planned: Plan) -> list[Part]:
    quantized = set(planned.quantized)
    return parts([m for m in planned.modules if m.name in quantized], job.sensitivity.unit)


def _extra(part: Part, planned: Plan) -> int:
    return part.extra_bytes(FORMATS[planned.layout], planned.group_size)


def budget_bytes(job: Job) -> int:
    return int((job.sensitivity.budget_gib or 0) * 2**30)


def losses_of(job: Job, planned: Plan, measured: dict[str, Any]) -> list[Loss]:
    whole, losses = fmean(measured["all"]), []
    for part in parts_of(job, planned):
        alone, without = (fmean(measured["parts"][part.name][way]) for way in ("alone", "all_but"))
        losses.append(
            Loss(part.name, part.kind, part.block, alone, whole - without, _extra(part, planned), part.patterns)
        )
    return losses
