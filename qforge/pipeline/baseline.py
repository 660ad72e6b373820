"""What a checkpoint is judged against, under the same conditions: the model as it is published, or its bf16 form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from qforge.config.job import Engine, Job, Vendor
from qforge.config.kv_cache import KvCache
from qforge.config.method import Method
from qforge.models.formats import CT
from qforge.models.quantized_source import Packing
from qforge.pipeline import fetch, unpack
from qforge.pipeline.run import Run
from qforge.plan import plan
from qforge.plan.plan import Plan
from qforge.report import baseline as names
from qforge.report import terminal

BF16 = Method(name="bf16", summary="the original, unquantized", format="bf16")


@dataclass(frozen=True)
class Baseline:
    """What people call it; `packing` where it is the source as served; `refusal`: why it cannot be measured here."""

    name: str  # one of report/baseline.py
    packing: Packing | None = None
    refusal: str | None = None

    @property
    def prefix(self) -> str:
        """Of its files."""
        return "source-" if self.packing else "bf16-"

    def job(self, job: Job) -> Job:
        """Its job, under the same conditions as this one."""
        return published(job, self.packing) if self.packing else bf16_of(job)

    def checkpoint(self, run: Run, source: Path) -> Path:
        """What is measured."""
        return source if self.packing else unpack.plain(run, source)


def of(run: Run, planned: Plan) -> Baseline | None:
    """The baseline, said before the work; none where the checkpoint is that itself.

    The source of a model that is published quantized is measured as it is served. Where nothing serves it here, what it is
    unpacked to is. Where bf16 does not fit (mostly that is why one quantizes), there is no baseline.
    """
    job, packing = run.job, planned.packing
    made = not job.is_original
    if packing is None:
        return Baseline(names.BF16, refusal=_refusal(bf16_of(job), run, warned=True)) if made else None
    why = _not_served(job, packing) or _refusal(published(job, packing), run)
    if why is None:
        return Baseline(names.SERVED, packing)
    if not made:
        return None
    terminal.warn(
        f"the source cannot be served here as it is published, so the baseline is the {names.UNPACKED}: {why}"
    )
    return Baseline(names.UNPACKED, refusal=_refusal(bf16_of(job), run, warned=True))


def bf16_of(job: Job) -> Job:
    """The same conditions for the unquantized model, with a cache in its own dtype."""
    return replace(job, method=BF16, group_size=None, exempt={}, artifact=None, kv=KvCache())


def published(job: Job, packing: Packing) -> Job:
    """The same conditions for the model as it is published, quantized."""
    layout, group = packing.served or ("bf16", None)
    method = Method(name="source", summary=f"the source as it is published: {packing.summary}", format=layout)
    return replace(job, method=method, group_size=group, exempt={}, artifact=None, kv=KvCache())


def _not_served(job: Job, packing: Packing) -> str | None:
    """Why plan/support_matrix.yaml does not speak of it. What others than compressed-tensors pack was tried on GPUs alone."""
    if packing.served is None:
        return f"no row of the support matrix fits {packing.summary}"
    if packing.method is None:
        return "its config.json does not say how it is packed"
    if packing.method != CT and (job.runtime.engine is Engine.transformers or job.hw.vendor is Vendor.cpu):
        return f"quant_method={packing.method} was not tried on hw={job.hw.name} with runtime={job.runtime.name}"
    return None


def _refusal(job: Job, run: Run, warned: bool = False) -> str | None:
    """Why the job cannot be planned."""
    try:
        plan.make(job, fetch.known_model(run))
    except ValueError as refusal:
        if warned:
            terminal.warn(f"bf16 cannot be measured here, so there is no baseline: {refusal}")
        return str(refusal)
    return None
