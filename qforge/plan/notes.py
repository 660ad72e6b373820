"""What a plan says beside its numbers: what changes nothing, what was never run, what the verdict will not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qforge.config.job import Engine, Job
from qforge.models.core import Core
from qforge.models.metadata import Source
from qforge.models.modules import Module
from qforge.plan import cores, kv_cache, limits, online
from qforge.plan.exemptions import Hits, waits
from qforge.plan.support_matrix import facts


def notes(job: Job, rules: Mapping[str, Hits], tree: Sequence[Module], tied: bool, core: Core | None) -> list[str]:
    """All of them; `rules` is empty for a method that quantizes nothing, `tied` is whether the head is the embedding."""
    packed = _notes_on_packing(job, rules, tree, tied, core) if job.method.function else []
    return [*packed, *online.notes(job), *kv_cache.notes(job), *_machine_notes(job), *limits.notes(job)]


def published(job: Job, model: Source) -> list[str]:
    """How the source is published, where that is quantized, and what becomes of it."""
    if model.packing is None:
        return []
    stored, plain = (sum(t.nbytes for t in tensors.values()) / 1e9 for tensors in (model.stored, model.tensors))
    said = f"the source is published quantized: {model.packing.summary}, {stored:.3g} GB"
    if not job.method.function and job.method.format != "bf16":
        return [said]
    way = "while it is read" if job.method.streams else f"first, which takes {plain:.3g} GB more of the store"
    return [f"{said}; it is unpacked to bf16 {way}, and judged against the source as it is served, where it can be"]


def _notes_on_packing(
    job: Job, rules: Mapping[str, Hits], tree: Sequence[Module], tied: bool, core: Core | None
) -> list[str]:
    notes = [
        f"exempt.{rule} changes nothing: {job.method.name} never quantizes embeddings, heads, routers or towers, or an "
        "earlier rule already keeps these modules"
        for rule, hits in rules.items()
        if not hits.changes and not waits(job.exempt[rule])
    ]
    notes += [
        f"exempt.{rule} is measured before anything is quantized; it adds up to {job.sensitivity.budget_gib} GiB"
        for rule in rules
        if waits(job.exempt[rule])
    ]
    spent = "sensitivity" in job.stages or any(map(waits, job.exempt.values()))
    if (
        job.sensitivity.budget_gib is not None and not spent
    ):  # no refusal: a sweep compares with rows that spend nothing
        notes.append("sensitivity.budget_gib changes nothing: no rule uses it; exempt=from_sensitivity does")
    if job.method.instead:
        notes.append(
            f"{job.method.name}'s library is archived; except for a comparison, use method={job.method.instead}"
        )
    if tied:
        notes.append("the head is the embedding (tied weights), which stays in bf16")
    if dropped := sorted({m.kind for m in tree if m.served is None}):
        notes.append(
            f"vLLM does not load {' and '.join(dropped)}, which vllm-omni serves; the memory estimate leaves them out"
        )
    if core:
        notes.append(cores.note(core, job.method.calibrated))
    return notes


def _machine_notes(job: Job) -> list[str]:
    """What is known of this runtime and of quantizing on this hardware, where it was never run here."""
    notes = [f"runtime={job.runtime.name}: {job.runtime.caution}"] if job.runtime.caution else []
    torch = facts()["torch"].get(job.hw.capability)
    if torch and (job.method.function or job.runtime.engine is Engine.transformers):
        notes.append(f"hw={job.hw.name}: {torch}")
    return notes
