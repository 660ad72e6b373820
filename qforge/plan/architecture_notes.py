"""What a plan says about an architecture: what is unknown, what stays in bf16 for that reason, what was never tested."""

from __future__ import annotations

from collections.abc import Sequence

from qforge.config.job import Engine, Job
from qforge.models import vllm_names
from qforge.models.architectures import FAMILIES
from qforge.models.metadata import Source
from qforge.models.modules import Module
from qforge.models.structure import pattern

SHOWN = 4  # kinds of names that a note has


def notes(job: Job, model: Source, tree: Sequence[Module]) -> list[str]:
    """Notes on the model's type, unknown matrices, drafting layers and the engine."""
    kind, built = str(model.config.get("model_type")), model.structure
    lines = []
    if kind not in FAMILIES:
        basis = (
            f"its structure is the one that {built.library} builds"
            if built and built.built
            else "its structure is read from the names of its tensors"
        )
        lines.append(f"model_type={kind} was not tested here: {basis}")
    if built and not built.built:
        lines.append(f"{built.library} cannot build it: {built.why}")
    if unknown := [m for m in tree if m.kind == "unknown"]:
        lines.append(f"matrices whose role is not known stay in bf16 ({len(unknown)}): {_shapes(unknown)}")
    if drafts := [m for m in tree if m.kind == "draft"]:
        lines.append(
            f"{len(drafts)} matrices of multi-token prediction stay in bf16, for speculative decoding: {_shapes(drafts)}"
        )
    classes = model.config.get("architectures") or []
    if (
        job.runtime.engine is Engine.vllm
        and kind not in FAMILIES
        and classes
        and vllm_names.known(model.config) is None
    ):
        lines.append(
            f"vLLM {vllm_names.version()} has no class {classes[0]}: it may serve it with transformers' class, or not at all"
        )
    return lines


def refuse_nothing(job: Job, model: Source, tree: Sequence[Module]) -> None:
    """Raises ValueError where a method that quantizes finds no matrix that may be quantized."""
    if job.method.function is None or any(m.linear for m in tree):
        return
    built = model.structure
    why = f"; {built.library} cannot build it: {built.why}" if built and not built.built else ""
    reasons = sorted({f"{m.kind}: {m.kept}" for m in tree if m.kind not in ("embedding", "head")})
    raise ValueError(
        f"method={job.method.name} model={job.model.name}: no layer of it can be quantized ({'; '.join(reasons)}){why}; use "
        "method=bf16"
    )


def refuse_unbuilt(job: Job, model: Source) -> None:
    """Raises ValueError where a library would have transformers load a model that it cannot build."""
    built, method = model.structure, job.method
    if method.function and not method.streams and built and not built.built:
        raise ValueError(
            f"method={method.name} model={job.model.name}: its library loads the model's class, and {built.library} cannot "
            f"build it: {built.why}; use method=rtn, fp8 or nvfp4_llmc, which read tensors, not classes"
        )


def _shapes(modules: Sequence[Module]) -> str:
    names = list(dict.fromkeys(pattern(m.name) for m in modules))
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more kinds" if len(names) > SHOWN else "")
