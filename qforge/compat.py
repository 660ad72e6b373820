"""What serves what: for a scheme, a group size, a hardware and an engine, the kernel to expect, or why there is none.

The facts are those of vLLM 0.33 (GPU) and 0.32 (CPU build). `read`: from its source, named by file and line under
vllm/model_executor. `ran`: seen by running it, with the version. `assumed`: neither. An H200 ran vLLM 0.26, where a few
kernels differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qforge.config import Engine, Hardware, Runtime, Vendor


class How(Enum):
    native = "native"  # the format's own arithmetic or a kernel made for it
    weight_only = "weight-only"  # packed weights, 16-bit arithmetic
    emulated = "emulated"  # unpacked to bf16: the right numbers, neither the memory nor the speed
    refused = "refused"


@dataclass(frozen=True)
class Serving:
    """How something will be served. For `refused`, `reason` says why and `fix` what to do instead."""

    how: How
    kernel: str
    reason: str
    evidence: str
    fix: str = ""


@dataclass(frozen=True)
class Fact:
    """One row: where scheme and platform match (and the group size is among `groups`, if it names any)."""

    scheme: str
    platforms: tuple[str, ...]
    groups: tuple[int, ...]
    serving: Serving


CUDA = ("8.0", "8.9", "9.0", "10.0", "11.0", "12.0")


def _fact(
    scheme: str, platforms: tuple[str, ...], how: How, kernel: str, reason: str, evidence: str,
    groups: tuple[int, ...] = (), fix: str = "",
) -> Fact:  # fmt: skip
    return Fact(scheme, platforms, groups, Serving(how, kernel, reason, evidence, fix))


FACTS = [
    _fact("bf16", (*CUDA, "gfx942", "cpu"), How.native, "", "unquantized", "ran: CPU 0.32, H200 0.26"),
    # NVFP4 weight-only. That it exists at group 16 only is checked for every platform by formats.py.
    _fact("nvfp4", ("9.0",), How.weight_only, "Humming",
          "Hopper has no FP4 arithmetic: weights are unpacked to bf16 inside the kernel, which saves memory, not FLOPs",
          "read: kernels/linear/__init__.py:592; ran: H200, vLLM 0.26, MarlinNvFp4LinearKernel"),
    _fact("nvfp4", ("10.0",), How.weight_only, "FlashInferCuteDslNvFp4W4A16",
          "weight-only, bf16 activations", "read: kernels/linear/nvfp4/flashinfer.py:86"),
    _fact("nvfp4", ("8.0", "8.9", "11.0", "12.0"), How.weight_only, "Marlin",
          "weight-only through Marlin, which warns that FP4 is not native", "read: kernels/linear/nvfp4/marlin.py:33"),
    _fact("nvfp4", ("gfx942",), How.refused, "",
          "NVFP4 weight-only is forced onto Marlin, which ROCm does not have",
          "read: kernels/linear/__init__.py:1256", fix="method=gptq or method=awq with group_size=64 or 128"),
    _fact("nvfp4", ("cpu",), How.emulated, "dequantized at load by qforge's plugin",
          "vLLM has no NVFP4 kernel for CPUs; the weights are unpacked to bf16 at load: quality is real, speed and "
          "memory are bf16's and are not measured", "ran: CPU 0.32"),
    # INT4 weight-only in compressed-tensors
    _fact("int4", ("9.0",), How.weight_only, "Machete", "", groups=(-1, 64, 128),
          evidence="read: quantization/utils/machete_utils.py:30; ran: H200, vLLM 0.26, group 128"),
    _fact("int4", ("9.0",), How.weight_only, "Humming", "Machete has no group 32", groups=(32,),
          evidence="read: quantization/utils/humming/priority.py:11"),
    _fact("int4", ("8.0", "8.9", "10.0", "11.0", "12.0"), How.weight_only, "Marlin", "", groups=(-1, 32, 64, 128),
          evidence="read: kernels/linear/__init__.py:539"),
    _fact("int4", ("gfx942",), How.weight_only, "TritonW4A16", "", groups=(-1, 32, 64, 128),
          evidence="read: kernels/linear/mixed_precision/triton_w4a16.py:32"),
    _fact("int4", ("cpu",), How.weight_only, "CPUWNA16", "needs AVX-512", groups=(-1, 32, 64, 128),
          evidence="ran: CPU 0.32"),
    # FP8, per channel, activations quantized on the fly. Only the CPU row was run; no line of vLLM's source was kept
    # for the others.
    _fact("fp8", ("8.9", "9.0", "10.0", "11.0", "12.0"), How.native, "an FP8 GEMM", "", "assumed, not checked"),
    _fact("fp8", ("8.0",), How.weight_only, "Marlin", "Ampere has no FP8 arithmetic", "assumed, not checked"),
    _fact("fp8", ("gfx942",), How.native, "an FP8 GEMM", "", "assumed, not checked"),
    _fact("fp8", ("cpu",), How.native, "ChannelWiseTorchFP8ScaledMM",
          "torch's own FP8 product: right, and 17 times slower than bf16 (2026-11-21, 4 streams)", "ran: CPU 0.32"),
]  # fmt: skip


def serving(scheme: str, layout: str, group_size: int | None, hw: Hardware, runtime: Runtime) -> Serving:
    """How `runtime` on `hw` serves `scheme` in this checkpoint layout (a key of formats.FORMATS)."""
    if runtime.engine is Engine.transformers:
        return _transformers(scheme, layout)
    platform = "cpu" if hw.vendor is Vendor.cpu else str(hw.capability)
    for fact in FACTS:
        if fact.scheme == scheme and platform in fact.platforms and (not fact.groups or group_size in fact.groups):
            return fact.serving
    return Serving(
        How.refused, "", f"no kernel of vLLM is known for {scheme}, group {group_size}, on {hw.name} ({platform})",
        "no row in qforge/compat.py", fix="another group_size or method",
    )  # fmt: skip


def _transformers(scheme: str, layout: str) -> Serving:
    if layout == "nvfp4_modelopt":
        return Serving(
            How.refused, "", "transformers does not read ModelOpt's packed checkpoints", "ran: transformers 5.17",
            fix="runtime=vllm_cpu, or method=nvfp4_llmc whose checkpoints it reads",
        )  # fmt: skip
    if scheme == "bf16":
        return Serving(How.native, "torch", "unquantized", "ran: transformers 5.17")
    return Serving(
        How.emulated, "unpacked by compressed-tensors", "transformers unpacks the weights to bf16 at load: quality is "
        "real, speed and memory are bf16's and are not measured", "ran: transformers 5.17",
    )  # fmt: skip
