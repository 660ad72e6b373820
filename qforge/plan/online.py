"""Weights that vLLM itself quantizes while it loads the bf16 model: the yardstick without an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qforge.config.job import Engine, Job, Vendor
from qforge.models.checkpoint import Tensor
from qforge.models.formats import FORMATS
from qforge.models.modules import Module
from qforge.plan import support_matrix
from qforge.plan.share import Share
from qforge.plan.support_matrix import How

# Neither is a LinearBase in vLLM, which alone is quantized at load (0.32 quantization/online/base.py:290). Its option
# quantization_config has an `ignore`, which qforge does not set: nothing would hold the checkpoint against it.
UNTOUCHED = {"role:lm_head", "role:embed_tokens"}
# Names of --quantization that mean the experts of a mixture and no other layer (vLLM 0.33 config/quantization.py:219)
EXPERTS_ALONE = {"int8_per_channel_weight_only", "nvfp4_per_token"}
# Bits of a weight, with its group's scale where a group has one; scales of rows and of blocks of 128 x 128 are less than a
# thousandth of that. vLLM's other names are planned for bf16.
BITS = {
    "fp8_per_tensor": 8.0, "fp8_per_channel": 8.0, "fp8_per_block": 8.0, "int8_per_channel_weight_only": 8.0, "mxfp8": 8.25,
    "mxfp4": 4.25, "nvfp4_per_token": 4.5,
}  # fmt: skip
# The checkpoint's format that vLLM serves by the same kernels
LAYOUTS = {"fp8_per_tensor": "fp8", "fp8_per_channel": "fp8", "fp8_per_block": "fp8_block", "mxfp4": "mxfp4"}
BLACKWELL = "10."  # of datacenters, which nvfp4_per_token asks for (vLLM 0.33 quantization/online/nvfp4.py:100)


def refuse(job: Job) -> None:
    """Raises ValueError where vLLM would not do it: of another model than one in bf16, or on a CPU."""
    if not job.method.online:
        return
    named = f"method={job.method.name} method.online={job.method.online}"
    if job.method.function or job.method.format != "bf16":
        raise ValueError(
            f"{named}: vLLM quantizes at load what is in bf16; leave method.online out, or use method=online_fp8"
        )
    if job.runtime.engine is not Engine.vllm or job.hw.vendor is Vendor.cpu:
        raise ValueError(
            f"{named} hw={job.hw.name} runtime={job.runtime.name}: only vLLM on a GPU quantizes at load; use method=fp8, which "
            "makes a checkpoint"
        )
    if job.method.online == "nvfp4_per_token" and not str(job.hw.capability).startswith(BLACKWELL):
        raise ValueError(
            f"{named} hw={job.hw.name}: vLLM quantizes to NVFP4 at load on B200 and its kin alone; use method=nvfp4_llmc, "
            "which makes a checkpoint, or method.online=mxfp4"
        )
    if job.kv.calibrated:
        raise ValueError(f"{named} kv={job.kv.name}: scales come with a quantized checkpoint; use kv=fp8 or kv=auto")


def refuse_dense(job: Job, tree: Sequence[Module]) -> None:
    """Raises ValueError where nothing would be quantized, so that a row of bf16 would have another name."""
    if job.method.online in EXPERTS_ALONE and not any(m.kind == "expert" for m in tree):
        raise ValueError(
            f"method.online={job.method.online}: vLLM quantizes the experts of a mixture alone with it, and model="
            f"{job.model.name} has none; use method.online=fp8_per_channel"
        )


def loaded(job: Job, tree: Sequence[Module], tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The checkpoint's tensors as they are in the server's memory: those that vLLM quantizes at load in as few bytes. Towers
    stay in bf16 here, though vLLM quantizes those of some models."""
    bits = BITS.get(job.method.online or "")
    if bits is None:
        return tensors
    touched = [m for m in tree if m.linear and (m.kind == "expert" or job.method.online not in EXPERTS_ALONE)]
    return {**tensors, **{m.tensor: Tensor("U8", (round(tensors[m.tensor].count * bits / 8),)) for m in touched}}


def shares(job: Job, tree: Sequence[Module], planned: list[Share], vllm: str) -> list[Share]:
    """`planned`, as a checkpoint in the same format would be served: vLLM chooses the kernel by the same rules (0.33
    kernels/linear/__init__.py:1046). Raises ValueError where it has none."""
    name = LAYOUTS.get(job.method.online or "")
    if name is None:
        return planned
    layout, (share,) = FORMATS[name], planned
    group = layout.group_sizes[0] if layout.group_sizes else None
    experts = any(m.kind == "expert" for m in tree)
    served = support_matrix.serving(layout.scheme, name, group, job.hw, job.runtime, experts, vllm)
    if served.how is How.refused:
        raise ValueError(
            f"method={job.method.name} method.online={job.method.online} hw={job.hw.name}: {served.reason}; use {served.fix}"
        )
    return [replace(share, layout=name, serving=served)]


def notes(job: Job) -> list[str]:
    """What the plan's numbers are not, and which rules are not kept to."""
    if not job.method.online:
        return []
    ignored = [f"exempt.{name}" for name, rule in job.exempt.items() if not UNTOUCHED.issuperset(rule.match)]
    unkept = (
        f"{', '.join(ignored)}: not applied, since vLLM itself chooses what it quantizes at load, all that it can but the "
        "head; use method=fp8, which keeps to the rules, or exempt=lm_head"
    )
    known = "the size on the disk is that of" if job.method.online in BITS else "size, memory and speed are planned for"
    seen = "; of Qwen3-8B's shape an H200 took 10 % more memory than is planned"
    more = seen if job.method.online == "fp8_per_channel" else ""
    return [
        *([unkept] if ignored else []),
        f"vLLM quantizes the bf16 weights while it loads them (quantization={job.method.online}): no checkpoint is made, and "
        f"{known} bf16{more}",
    ]
