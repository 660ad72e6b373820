"""The whole compatibility data: well-formed, complete, no row in vain, every way out servable."""

from __future__ import annotations

import itertools
import re

import pytest
from packaging.specifiers import SpecifierSet

from qforge.config.job import Engine, Hardware, Runtime, Vendor
from qforge.models.formats import FORMATS, MIXED
from qforge.plan import support_matrix
from qforge.plan.support_matrix import How, Row, Serving

VLLM = Runtime(name="vllm", engine=Engine.vllm)
RUNTIMES = {
    "transformers": Runtime(name="transformers", engine=Engine.transformers, env="quant"),
    "transformers-bitsandbytes": Runtime(name="transformers_bnb", engine=Engine.transformers, env="bitsandbytes"),
}
PLATFORMS = [*support_matrix.facts()["sets"]["vllm"], "transformers", "transformers-bitsandbytes"]
LAYOUTS = sorted({layout for row in support_matrix.facts()["rows"] for layout in row.formats})
GROUPED = ("int4", "int4_asym", "gptq", "gptq_asym", "awq", "mxfp4", *support_matrix.facts()["sets"]["nvfp4_all"])
ROWS: list[Row] = support_matrix.facts()["rows"]


def groups(layout: str) -> tuple[int | None, ...]:
    return (-1, 16, 32, 64, 128) if layout in GROUPED else (None,)


def ask(layout: str, platform: str, group: int | None, layers: str = "linear", version: str = "0.33") -> Serving:
    cpu = platform.startswith("cpu-")
    hw = Hardware(name=platform, vendor=Vendor.cpu if cpu else Vendor.nvidia, capability=platform.removeprefix("cpu-"))
    runtime = RUNTIMES.get(platform, VLLM)
    return support_matrix.serving(layout, layout, group, hw, runtime, layers == "experts", version)


CASES = [
    (layout, platform, group, layers, version)
    for layout, platform, layers, version in itertools.product(
        LAYOUTS, PLATFORMS, ("linear", "experts"), ("0.26", "0.33")
    )
    for group in groups(layout)
]


def test_every_row_is_well_formed() -> None:
    for row in ROWS:
        assert How(row.how)
        assert row.layers in ("linear", "experts", "both"), row
        assert set(row.platforms) <= set(PLATFORMS), row
        SpecifierSet(row.versions)  # raises for what pip would not read
        assert bool(row.kernel) == (row.how != "refused") or row.formats == ["bf16"], row
        assert bool(row.fix) == bool(row.instead) == (row.how == "refused"), row
        assert row.reason or row.how != "refused", row


def test_every_row_has_evidence_that_can_be_looked_up() -> None:
    place = (
        r"(([a-z_0-9]+/)+\w+\.py:[1-9]\d*|text in _C_stable_libtorch.abi3.so of 0.33|vLLM (issue|pull request)s? \d+)"
    )
    kinds = rf"^(read( 0\.32)?: {place}|ran: (vLLM|transformers) [\d.]+|assumed: )"
    for row in ROWS:
        for part in row.evidence.split("; "):
            assert re.match(kinds, part) or re.match(place, part), row.evidence
    assert sum("assumed" in row.evidence for row in ROWS) <= 2


def test_every_format_of_qforge_is_in_it() -> None:
    assert FORMATS.keys() - {MIXED} <= set(LAYOUTS)


def test_every_case_is_answered_and_every_row_decides_one() -> None:
    idle = set(range(len(ROWS)))
    for layout, platform, group, layers, version in CASES:
        first = next((i for i, row in enumerate(ROWS) if row.fits(layout, platform, group, layers, version)), None)
        if first is None:  # only where plan refuses the group before: no such format, or one that transformers reads
            assert platform.startswith(("transformers", "cpu-")), (layout, platform, group, layers)
            continue
        idle.discard(first)
    assert not idle, [ROWS[i] for i in idle]


def test_the_way_out_of_every_refusal_is_served_there() -> None:
    for layout, platform, group, layers, version in CASES:
        found = ask(layout, platform, group, layers, version)
        if found.how is How.refused:
            assert found.instead is not None, (layout, platform, group, layers)
            assert ask(found.instead[0], platform, found.instead[1], layers, version).how is not How.refused


# The table of the reference (read in vLLM 0.33, CPU 0.32): OK names the kernel, EMU is emulated, NO refused. Where reading the
# source or running it said otherwise, the cell has a comment.
COLUMNS = ("9.0", "10.0", "11.0", "gfx942", "cpu-avx512")
MARLIN, CPU_INT4, TRITON = "MarlinLinearKernel", "CPUWNA16LinearKernel", "TritonW4A16LinearKernel"
FP4, CUTE_A16 = "NvFp4LinearKernel", "FlashInferCuteDslNvFp4W4A16LinearKernel"
MACHETE_ROW = ("MacheteLinearKernel", MARLIN, MARLIN, TRITON, CPU_INT4)
HUMMING_ROW = ("HummingLinearKernel", MARLIN, MARLIN, TRITON, CPU_INT4)
NO = ("NO",) * 5
TABLE = [
    # the reference says NO on a CPU, which is vLLM's answer; qforge's plugin unpacks there (run)
    (("nvfp4", "nvfp4_modelopt"), (16,), (f"Humming{FP4}", CUTE_A16, f"Marlin{FP4}", "NO", "EMU")),
    (("nvfp4_w4a4",), (16,), (f"Humming{FP4}", f"FlashInferCuteDsl{FP4}", f"FlashInferCutlass{FP4}", "EMU", "EMU")),
    (("nvfp4", "nvfp4_modelopt", "nvfp4_w4a4"), (32, 64, 128), NO),
    # the reference says Marlin on Thor: but FlashInfer's kernel comes first and asks for 10.0 or more (mxfp4/flashinfer.py:28)
    (("mxfp4",), (32,), ("HummingMxFp4LinearKernel", "FlashInferMxFp4LinearKernel", "FlashInferMxFp4LinearKernel", "NO", "NO")),
    (("gptq",), (128, 64, -1), MACHETE_ROW),
    (("gptq",), (32,), HUMMING_ROW),
    (("gptq",), (16,), NO),
    (("gptq_asym",), (-1, 16, 32, 64, 128), NO),
    (("awq",), (128, 64, -1), (*MACHETE_ROW[:3], "AutoAWQLinearMethod", CPU_INT4)),
    (("awq",), (32,), (*HUMMING_ROW[:3], "AutoAWQLinearMethod", CPU_INT4)),
    (("awq",), (16,), ("NO", "NO", "NO", "NO", CPU_INT4)),
    (("int4", "int4_asym"), (64, 128, -1), MACHETE_ROW),
    (("int4", "int4_asym"), (32,), HUMMING_ROW),
    (("int4", "int4_asym"), (16,), ("HummingLinearKernel",) * 3 + ("NO", CPU_INT4)),
]  # fmt: skip


@pytest.mark.parametrize(("layouts", "sizes", "cells"), TABLE)
def test_the_table_of_the_reference(layouts: tuple[str, ...], sizes: tuple[int, ...], cells: tuple[str, ...]) -> None:
    for layout, size, (platform, cell) in itertools.product(layouts, sizes, zip(COLUMNS, cells, strict=True)):
        found = ask(layout, platform, size)
        named = {How.refused: "NO", How.emulated: "EMU"}.get(found.how, found.kernel)
        assert named == cell, (layout, size, platform)


# Experts: the reference's table. 9.0: MXFP4 goes through Marlin, not Humming (compressed_tensors_moe_w4a4_mxfp4.py:77);
# asymmetric INT4 of other groups than 32 through Marlin (fused_humming_moe.py:96);
# 10.0: INT4 of group 32 goes to FlashInfer first. On ROCm compressed-tensors reaches Triton without moe_wna16.
EXPERTS = [
    ("nvfp4", 16, ("HUMMING experts", "MARLIN experts", "MARLIN experts", "NO", "NO")),
    ("nvfp4_w4a4", 16, ("HUMMING experts", "FLASHINFER_TRTLLM experts", "VLLM_CUTLASS experts", "EMU", "NO")),
    ("mxfp4", 32, ("MARLIN experts", "CutlassExpertsMxfp4", "MARLIN experts", "NO", "NO")),
    ("int4", 32, ("HUMMING experts", "FLASHINFER_TRTLLM experts", "MARLIN INT4 experts", "TRITON experts", "NO")),
    ("int4", 128, ("HUMMING experts", "MARLIN INT4 experts", "MARLIN INT4 experts", "TRITON experts", "NO")),
    ("int4", -1, ("NO", "MARLIN INT4 experts", "MARLIN INT4 experts", "NO", "NO")),
    ("int4_asym", 64, ("MARLIN INT4 experts", "MARLIN INT4 experts", "MARLIN INT4 experts", "TRITON experts", "NO")),
    ("int4_asym", 32, ("HUMMING experts", "MARLIN INT4 experts", "MARLIN INT4 experts", "TRITON experts", "NO")),
    ("gptq", 64, ("HUMMING experts", "MARLIN INT4 experts", "MARLIN INT4 experts", "TRITON experts", "NO")),
]


@pytest.mark.parametrize(("layout", "size", "cells"), EXPERTS)
def test_experts_have_kernels_of_their_own(layout: str, size: int, cells: tuple[str, ...]) -> None:
    for platform, cell in zip(COLUMNS, cells, strict=True):
        found = ask(layout, platform, size, "experts")
        assert {How.refused: "NO", How.emulated: "EMU"}.get(found.how, found.experts_kernel) == cell, platform
    assert ask("int4", "cpu-amx", 64, "experts").experts_kernel == "CPUExpertsInt4"
    assert ask("gptq", "cpu-amx", 32, "experts").experts_kernel == "CPUExpertsInt4"
    assert ask("int4", "cpu-amx", 32, "experts").how is How.refused
    assert ask("int4_asym", "cpu-amx", 64, "experts").how is How.refused


def test_of_a_mixture_the_worse_answer_counts() -> None:
    both = ask("int4", "9.0", 64, "experts")
    assert (both.kernel, both.experts_kernel) == ("MacheteLinearKernel", "HUMMING experts")
    assert ask("int8", "9.0", None, "experts").how is How.native
    assert ask("int8", "10.0", None, "experts").how is How.refused  # its experts would be served, its attention not
    assert ask("mxfp4", "11.0", 32, "experts").how is How.weight_only
    assert ask("mxfp4", "11.0", 32).how is How.native
    hopper = ask("mxfp4", "9.0", 32)
    assert (hopper.how, hopper.arithmetic) == (How.native, "fp8")  # ran: prefill 1.41 times bf16's


def test_versions_decide_where_kernels_changed() -> None:
    assert ask("nvfp4", "9.0", 16, version="0.26").kernel == "MarlinNvFp4LinearKernel"  # ran
    assert ask("nvfp4", "9.0", 16, version="0.33.0").kernel == "HummingNvFp4LinearKernel"
    assert ask("nvfp4", "9.0", 16, "experts", "0.26.0").experts_kernel == "MARLIN experts"  # ran
    assert ask("int4", "9.0", 128, "experts", "0.26.0").experts_kernel == "MARLIN INT4 experts"  # ran
    assert ask("int4", "9.0", 128, "experts", "0.33.0rc1").experts_kernel == "HUMMING experts"
    assert ask("nf4", "9.0", None, version="0.27.1").how is How.weight_only
    assert ask("nf4", "9.0", None, version="0.28.0").how is How.refused
    for version in (
        "0.27.0rc1",
        "0.27.0.dev5+g123",
        "0.27.1+cu129",
    ):  # a build before a release has what the release has
        assert ask("nvfp4", "9.0", 16, version=version).kernel == "HummingNvFp4LinearKernel"


REFUSALS = [
    ("nvfp4", "gfx942", 16, "linear", "Marlin, which ROCm does not have", "method=gptq or method=awq"),
    ("nvfp4", "gfx942", 16, "experts", "emulation, takes W4A4 alone", "method=gptq or method=awq"),
    (
        "nvfp4",
        "9.0",
        64,
        "linear",
        "NVFP4 exists at group 16 only (one FP8 scale per 16",
        "group_size=16, or method=rtn",
    ),
    ("nvfp4", "cpu-amx", 64, "linear", "NVFP4 exists at group 16 only", "group_size=16 where there are no experts"),
    ("nvfp4", "cpu-amx", 16, "experts", "plugin unpacks linear layers only", "method=bf16"),
    ("nvfp4_modelopt", "transformers", 16, "linear", "does not read ModelOpt's", "method=nvfp4_llmc"),
    ("nvfp4_modelopt", "transformers", 16, "experts", "does not read ModelOpt's", "method=rtn"),
    ("nvfp4", "transformers", 16, "experts", "without their global scale", "method=rtn"),
    ("nvfp4_w4a4", "transformers", 16, "experts", "without their global scale", "method=rtn"),
    ("int4_asym", "transformers", 64, "experts", "fails to load a mixture", "method=rtn"),
    ("fp8_block", "transformers", None, "experts", "fails to load a mixture", "method=rtn"),
    ("int8", "transformers", None, "experts", "fails to load a mixture", "method=rtn"),
    ("mxfp4", "9.0", 64, "linear", "MXFP4 exists at group 32 only", "method=rtn, gptq or awq"),
    ("mxfp4", "gfx942", 32, "linear", "needs gfx950", "method=gptq or method=awq"),
    ("mxfp4", "gfx942", 32, "experts", "falls back to Marlin", "method=gptq or method=awq"),
    ("mxfp4", "cpu-amx", 32, "linear", "no MXFP4 kernel for linear layers", "method=gptq or method=awq"),
    ("mxfp4", "cpu-amx", 32, "experts", "which a CPU does not have", "method=bf16"),
    ("gptq_asym", "9.0", 64, "linear", "symmetric only", "sym=true"),
    (
        "gptq",
        "9.0",
        16,
        "linear",
        "checks Marlin's group sizes for the GPTQ format on every platform",
        "group_size=32, 64",
    ),
    ("gptq", "cpu-amx", 16, "linear", "checks Marlin's group sizes for the GPTQ format", "group_size=32, 64 or 128"),
    ("gptq", "transformers", 64, "linear", "packages that the environment does not have", "method=bf16"),
    ("gptq", "transformers-bitsandbytes", 64, "linear", "nothing that reads another format", "runtime=transformers"),
    ("awq", "9.0", 16, "linear", "multiples of 32", "group_size=32, 64 or 128"),
    ("awq", "gfx942", 16, "linear", "Triton kernel for AWQ takes groups of 32", "group_size=32, 64 or 128"),
    ("int4", "gfx942", 16, "linear", "takes group 16 with bf16 activations", "group_size=32, 64 or 128"),
    ("int4", "cpu-avx2", 64, "linear", "needs AVX-512, which this CPU lacks", "method=bf16"),
    ("int4", "cpu-avx512", 64, "experts", "needs AMX", "method=bf16"),
    ("int4", "9.0", -1, "experts", "reaches an assertion without groups", "group_size=32, 64 or 128"),
    ("int4", "gfx942", -1, "experts", "needs groups", "group_size=32, 64 or 128"),
    ("int4", "10.0", 16, "experts", "right at group 16", "group_size=32, 64 or 128"),
    ("fp8", "cpu-amx", None, "experts", "128 x 128 blocks only", "method=bf16"),
    ("fp8_block", "cpu-avx512", None, "linear", "need AMX", "method=fp8"),
    ("int8", "12.0", None, "linear", "Int8 not supported on SM", "method=fp8"),
    ("int8", "cpu-avx2", None, "experts", "need AMX", "method=bf16"),
    ("nf4", "9.0", None, "linear", "since 0.28; 0.27.1 was the last", "vllm-bnb-plugin"),
    ("nf4", "transformers", None, "linear", "does not have BitsAndBytes", "runtime=transformers_bnb"),
    ("q4_k", "9.0", None, "linear", "no row for q4_k (q4_k), group None, on 9.0 (9.0)", "add the row"),
    ("bf16", "8.6", None, "linear", "no row for bf16 (bf16), group None, on 8.6", "another method"),
]


@pytest.mark.parametrize(("layout", "platform", "group", "layers", "reason", "fix"), REFUSALS)
def test_every_refusal_says_why_and_what_to_do(
    layout: str, platform: str, group: int | None, layers: str, reason: str, fix: str
) -> None:
    found = ask(layout, platform, group, layers)
    assert found.how is How.refused
    assert reason in found.reason
    assert fix in found.fix


def test_no_refusal_is_left_out_above() -> None:
    said = {ask(*case[:4]).reason for case in REFUSALS}
    assert said >= {row.reason for row in ROWS if row.how == "refused"}
