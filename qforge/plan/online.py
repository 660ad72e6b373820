"""Weights that vLLM itself quantizes while it loads the bf16 model: the yardstick without an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qforge.config.job import Engine, Hardware, Job, Vendor
from qforge.models.checkpoint import Tensor
from qforge.models.modules import Module

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
HOPPER = "9.0"
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
    """The checkpoint's tensors as they are in the server's memory: those that vLLM quantizes at load in as few bytes."""
    bits = BITS.get(job.method.online or "")
    if bits is None:
        return tensors
    touched = [m for m in tree if m.linear and (m.kind == "expert" or job.method.online not in EXPERTS_ALONE)]
    names = {name for m in touched for name, _, _ in m.matrices}
    made = {
        name: Tensor("U8", (round(t.count * bits / 8),))
        for name, t in tensors.items()
        if name in names or (name.endswith(".weight") and name.removesuffix(".weight") in names)
    }
    return {**tensors, **made}


def arithmetic(online: str | None, hw: Hardware) -> str | None:
    """What the kernels compute in; none where it is bf16. To FP8 and MXFP4 the activations are quantized too, as with such a
    checkpoint: on Hopper MXFP4's to FP8 (on an H200 prefill was 1.39 times as fast as bf16's), before it none."""
    if online == "mxfp4":
        return "fp4" if "fp4" in hw.tflops else "fp8" if str(hw.capability) == HOPPER else None
    return "fp8" if "fp8" in (online or "") and "fp8" in hw.tflops else None


def notes(job: Job) -> list[str]:
    """What the plan's numbers are not, and which rules are not kept to."""
    if not job.method.online:
        return []
    ignored = [f"exempt.{name}" for name, rule in job.exempt.items() if not UNTOUCHED.issuperset(rule.match)]
    unkept = (
        f"{', '.join(ignored)}: not applied, since vLLM itself chooses what it quantizes at load, all that it can but the "
        "head; use method=fp8, which keeps to the rules, or exempt=lm_head"
    )
    return [
        *([unkept] if ignored else []),
        f"vLLM quantizes the bf16 weights while it loads them (quantization={job.method.online}): no checkpoint is made, and "
        f"{'the size on the disk is that of' if job.method.online in BITS else 'size, memory and speed are planned for'} bf16",
    ]
