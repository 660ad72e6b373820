"""Whether a method quantizes the text core of a multimodal model alone, and what that means for the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qforge.config.job import Job
from qforge.models.architectures import CORES
from qforge.models.core import Core
from qforge.models.modules import BESIDE, BLOCK, Module
from qforge.models.structure import Structure

STREAMS = "use method=rtn, w8a8, fp8 or nvfp4_llmc, which need no model"


def needed(job: Job, tree: Sequence[Module], config: Mapping[str, Any], built: Structure | None) -> Core | None:
    """The core, where the method's library has to build a model and the model has towers; none else.

    Raises ValueError, with the reason and the fix, where the core cannot be taken out.
    """
    if job.artifact or not any(m.kind in BESIDE for m in tree):
        return None
    if job.kv.calibrated and "llmcompressor" not in str(job.method.function):
        raise ValueError(
            f"kv={job.kv.name} model={job.model.name}: scales of the KV cache are measured on a model that is all text, and "
            "this one has towers; use method=gptq, which measures them on the text core, or a kv without scales"
        )
    if job.method.function is None or job.method.streams:
        return None
    try:
        return _of(tree, config, built)
    except ValueError as why:
        raise ValueError(
            f"method={job.method.name} model={job.model.name}: its library quantizes the text core of a multimodal model, "
            f"and {why}; {STREAMS}"
        ) from None


def _of(tree: Sequence[Module], config: Mapping[str, Any], built: Structure | None) -> Core:
    places = {m.name[: block.start()] for m in tree if m.block is not None and (block := BLOCK.search(m.name))}
    if len(places) != 1:
        raise ValueError(f"the blocks of this one begin at {', '.join(sorted(places)) or 'no name'}, not at one")
    head = next((m.name for m in tree if m.kind == "head"), None)
    found = built.core if built and built.built else {"kind": CORES.get(str(config.get("model_type")))}
    if "why" in found:
        raise ValueError(str(found["why"]))
    at = f"{places.pop()}.".lstrip(".")
    return Core(at, head, found.get("kind"), bool(found.get("splits")))


def note(core: Core, calibrated: bool) -> str:
    """What the plan says of it."""
    kind = f", a {core.kind}," if core.kind else ""
    text = "calibration sees text only, and " if calibrated else ""
    return (
        f"the text core{kind} is quantized as a model of its own and put back: {text}what is beside it is the source's, "
        "byte for byte"
    )
