"""The matrices of a plan by their format: one share in most plans, several in a mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qforge.config.job import Job
from qforge.models.formats import FORMATS, MIXED, Format
from qforge.models.modules import Module
from qforge.plan import feasibility, misfits, mix, support_matrix
from qforge.plan.memory import Config
from qforge.plan.support_matrix import How, Serving


@dataclass(frozen=True)
class Share:
    """Matrices that are packed alike, and how they are served."""

    method: str  # of a mix as method.formats has it
    layout: str
    group_size: int | None
    serving: Serving
    tensor_parallel: list[int]
    modules: list[Module] = field(repr=False)

    @property
    def format(self) -> Format:
        return FORMATS[self.layout]


def shares(
    job: Job, given: Mapping[str, str], kind: str, text: Config, quantized: Sequence[Module], vllm: str, fits: bool
) -> tuple[list[Share], dict[str, str]]:
    """The shares that `quantized` come to, and the matrices that no kernel can hold in their format, with the reason.

    `given`: of a mix the format of each matrix (mix.py); `kind`: the model_type; `text`: the numbers of its language model;
    `fits`: all are packed like that already.
    Raises ValueError for what cannot be made or served.
    """
    if job.method.format != MIXED:
        share, left = _share(job, kind, text, quantized, vllm, fits)
        return [share], left
    planned, left_alone = list[Share](), dict[str, str]()
    if job.group_size is not None:
        raise ValueError(
            f"group_size={job.group_size} method={job.method.name}: each part of a mix has its own; leave it out, and use "
            f"method.formats.mlp=rtn:{job.group_size}"
        )
    feasibility.refuse_undivided(job, text, quantized)
    for value, (alone, members) in mix.jobs(job, given, quantized).items():
        try:
            share, left = _share(alone, kind, text, members, vllm, fits)
        except ValueError as refusal:
            part = next(name for name, wanted in job.method.formats.items() if wanted == value)
            named = (
                (f"method.candidates: {value}", "leave it out")
                if job.method.candidates
                else ((f"method.formats.{part}={value}", "give this part another format"))
            )
            raise ValueError(f"{named[0]}: {refusal} (which is said of a whole model; here {named[1]})") from None
        planned.append(replace(share, method=value))
        left_alone |= left
    return planned, left_alone


def _share(
    job: Job, kind: str, text: Config, quantized: Sequence[Module], vllm: str, fits: bool
) -> tuple[Share, dict[str, str]]:
    layout = FORMATS[job.method.format]
    group = feasibility.group_size(job, layout)
    serving = feasibility.serving(job, kind, text, layout, group, quantized, vllm)
    left = {} if fits else misfits.found(kind, job.method.format, group, quantized, serving, vllm)
    if left:
        quantized = [m for m in quantized if m.name not in left]
        serving = feasibility.serving(job, kind, text, layout, group, quantized, vllm)
    feasibility.refuse_groups(job, layout, group, quantized)
    legal = feasibility.tensor_parallel(job, text, quantized, group, serving, vllm)
    return Share(job.method.name, job.method.format, group, serving, legal, list(quantized)), left


def together(parts: Sequence[Share]) -> Serving:
    """How all of them are served: the worst way counts."""
    if len(parts) == 1:
        return parts[0].serving
    worst = max((part.serving for part in parts), key=lambda serving: list(How).index(serving.how))
    kernels = [f"{part.method}: {support_matrix.kernels(part.serving)}" for part in parts]
    reasons = [f"{part.method}: {part.serving.reason}" for part in parts if part.serving.reason]
    evidence = dict.fromkeys(part.serving.evidence for part in parts)
    return Serving(worst.how, ", ".join(kernels), "; ".join(reasons), "; ".join(evidence))
