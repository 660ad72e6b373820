"""A checkpoint of a given size: in which formats each part of the model could be, and what that takes.

The choice is of least loss for the size, where the losses of parts add up: KL to bf16 of each part alone in each format, as
measured (stages/losses.py), and one format for each part, which is a multiple-choice knapsack (stages/allocation.py solves it
exactly). Losses do not quite add up: evaluate says what the choice is worth.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil
from pathlib import Path

from qforge.config.job import Job
from qforge.config.method import BF16
from qforge.models.formats import FORMATS
from qforge.models.modules import BESIDE, Module
from qforge.models.parts import Part, parts
from qforge.plan import packed, plan
from qforge.plan.mix import KINDS
from qforge.plan.plan import Plan
from qforge.plan.support_matrix import NEWEST

KEY = "method.bits"


@dataclass(frozen=True)
class Options:
    """The parts of a model that have formats to choose from, and the bytes of each part in each of them."""

    parts: list[Part]
    bytes: list[dict[str, int]]  # by part: a value of method.candidates -> what its matrices take
    rest: int  # bytes of the checkpoint that no choice changes
    parameters: int  # of the whole checkpoint
    plans: dict[str, Plan]  # by candidate but bf16: the whole model in it alone

    @property
    def smallest(self) -> int:
        """The bytes of the whole checkpoint, at least."""
        return self.rest + sum(min(sizes.values()) for sizes in self.bytes)

    @property
    def largest(self) -> int:
        return self.rest + sum(max(sizes.values()) for sizes in self.bytes)

    def bits(self, nbytes: int) -> float:
        """Per weight, of a checkpoint of so many bytes."""
        return 8 * nbytes / self.parameters

    def formats(self, chosen: Sequence[str]) -> dict[str, str]:
        """method.formats for one format a part; what stays in bf16 is left out."""
        named = zip(self.parts, chosen, strict=True)
        return {pattern: method for part, method in named if method != BF16 for pattern in part.patterns}


def wanted(job: Job) -> bool:
    """Whether the formats are to be chosen, and were not yet."""
    return bool(job.method.candidates) and not job.method.formats


def options(job: Job, folder: Path | None, vllm: str = NEWEST) -> Options:
    """What there is to choose from.

    Raises ValueError for a candidate that cannot be planned alone, and for a model whose losses cannot be measured.
    """
    if job.artifact:
        raise ValueError(
            f"method={job.method.name} artifact={job.artifact}: a given checkpoint has its formats, and none is "
            "left to choose; use method=mixed with the method.formats that it has"
        )
    candidates = [name for name in job.method.candidates if name != BF16]
    if len(job.method.candidates) < 2 or not candidates:
        raise ValueError(
            f"method.candidates={job.method.candidates}: leaves nothing to choose; give two formats or more, as in [bf16,fp8]"
        )
    for name, other in combinations(candidates, 2):
        if job.method.schemes[name] == job.method.schemes[other]:
            raise ValueError(
                f"method.candidates={job.method.candidates}: {name} and {other} are one format; leave one out"
            )
    plans = {name: plan.make(_alone(job, name), folder, vllm) for name in candidates}
    _refuse(job, plans)
    held = {name: {m.name for share in made.shares for m in share.modules} for name, made in plans.items()}
    first = next(iter(plans.values()))
    every = set.union(*held.values())
    chosen = parts([m for m in first.modules if m.name in every], job.sensitivity.unit)
    found = Options(
        chosen, [_sizes(job, part, held) for part in chosen],
        _rest(first, every), first.parameters, plans,
    )  # fmt: skip
    return found


def _alone(job: Job, candidate: str) -> Job:
    """The job with everything in one format."""
    return replace(job, method=replace(job.method, candidates=[candidate], formats=dict.fromkeys(KINDS, candidate)))


def _refuse(job: Job, plans: Mapping[str, Plan]) -> None:
    """As sensitivity does: the weights of a model of text only are replaced in memory."""
    modules = next(iter(plans.values())).modules
    why = None
    if job.model.random:
        why = "random weights have no quality to measure"
    elif any(m.kind in BESIDE for m in modules):
        why = "it has towers, and what a part loses is measured in models of text only"
    elif stacked := next((m for m in modules if m.stack > 1 and m.linear), None):
        why = f"{stacked.name} holds all experts of its layer in one tensor, whose rounding is not measured"
    if why:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: {why}; use method=mixed with formats of your own"
        )


def _sizes(job: Job, part: Part, held: Mapping[str, set[str]]) -> dict[str, int]:
    """A format that cannot hold a matrix of the part is none for it; bf16 is, where no candidate is left."""
    plain = {BF16: sum(map(_plain, part.modules))}
    sizes = dict(plain) if BF16 in job.method.candidates else {}
    for name, modules in held.items():
        if all(m.name in modules for m in part.modules):
            scheme = job.method.schemes[name]
            layout = FORMATS[scheme.format]
            sizes[name] = sum(packed.nbytes(m, layout, scheme.group_size) for m in part.modules)
    return sizes or plain


def _plain(module: Module) -> int:
    """Bytes of a matrix that is not packed, which is copied as it is."""
    return (4 if module.dtype == "F32" else 2) * module.parameters


def _rest(made: Plan, every: Collection[str]) -> int:
    """Of the planned checkpoint, without the matrices named in `every`."""
    packed_bytes = {
        m.name: packed.nbytes(m, share.format, share.group_size) for share in made.shares for m in share.modules
    }
    left = [m for m in made.modules if m.name in every and m.name not in packed_bytes]
    return made.bytes - sum(packed_bytes.values()) - sum(map(_plain, left))


def refuse_size(job: Job, found: Options) -> None:
    """Refuse a size that none or all of the choices have, and a job that says none. Raises ValueError."""
    bits = job.method.bits
    low, high = found.bits(found.smallest), found.bits(found.largest)
    if bits is None:
        raise ValueError(f"{KEY}: say how many bits per weight the checkpoint may have: {KEY}={(low + high) / 2:.3g}")
    if bits < low:
        raise ValueError(
            f"{KEY}={bits}: the smallest that method.candidates={job.method.candidates} come to is {low:.4g}, with what "
            f"stays in bf16; use {KEY}={ceil(100 * low) / 100} or more, or smaller candidates"
        )
    if bits > high or (bits == high and all(BF16 in sizes for sizes in found.bytes)):  # then nothing would be quantized
        raise ValueError(f"{KEY}={bits}: everything in its largest format takes {high:.3g}; use less, or method=bf16")


def smallest(found: Options) -> dict[str, str]:
    """method.formats of the smallest checkpoint: what is planned before anything is measured."""
    return found.formats([min(sizes, key=lambda name: sizes[name]) for sizes in found.bytes])
