"""What a kernel asks of a matrix on one of several devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from qforge.plan import support_matrix
from qforge.plan.support_matrix import Matrix

MARLIN, CPU_INT4, TRITON = "MarlinLinearKernel", "CPUWNA16LinearKernel", "TritonW4A16LinearKernel"
DEEPGEMM = "DeepGemmFp8BlockScaledMMKernel"


@pytest.mark.parametrize(
    ("matrix", "layout", "group", "kernel", "tp", "reason"),
    [
        (Matrix(896, 4864, row_parallel=True), "int4", 128, MARLIN, 2, None),
        (Matrix(896, 4864, row_parallel=True), "int4", 128, MARLIN, 4, "1216 inputs per device, which group_size=128"),
        (Matrix(4864, 896), "int4", 128, MARLIN, 16, None),
        (Matrix(576, 1536), "int4", 128, MARLIN, 1, None),
        (Matrix(1536, 576), "int4", 128, MARLIN, 1, "576 inputs, which group_size=128 does not divide"),
        (Matrix(100, 72, row_parallel=True), "int4", -1, MARLIN, 16, "72 inputs are not divisible by 16 devices"),
        # experts of Qwen3-30B-A3B: hidden 2048, intermediate 768
        (Matrix(2048, 768, row_parallel=True, expert=True), "int4", 128, "MARLIN INT4 experts", 2, None),
        (Matrix(2048, 768, row_parallel=True, expert=True), "int4", 128, "MARLIN INT4 experts", 4, "192 inputs per device"),
        (Matrix(2048, 768, row_parallel=True, expert=True), "int4", 64, "MARLIN INT4 experts", 4, None),
        (Matrix(2048, 768, row_parallel=True, expert=True), "int4", 64, "MARLIN INT4 experts", 8, "96 inputs per device"),
        (Matrix(2048, 768, row_parallel=True, expert=True), "int4", 32, "MARLIN INT4 experts", 8, None),
        # GPT-OSS, hidden 2880: no multiple of 128, so vLLM leaves Marlin for Triton (marlin_utils.py:378, int_wna16.py:137)
        (Matrix(5760, 2880, expert=True), "int4", 32, "MARLIN INT4 experts", 1, None),
        (Matrix(4096, 1000), "nvfp4", 16, "MarlinNvFp4LinearKernel", 1, "1000 inputs, which group_size=16 does not divide"),
        (Matrix(4096, 1000), "nvfp4", None, "MarlinNvFp4LinearKernel", 1, "1000 inputs, and nvfp4 needs multiples of 16"),
        (Matrix(4096, 144), "mxfp4", None, "MarlinMxFp4LinearKernel", 1, "144 inputs, and mxfp4 needs multiples of 32"),
        (Matrix(200, 256), "fp8_block", None, DEEPGEMM, 1, None),
        (Matrix(1280, 256), "fp8_block", None, DEEPGEMM, 4, "320 outputs per device, and fp8_block needs"),
        (Matrix(48, 64), "int4", 64, CPU_INT4, 1, "48 outputs per device, and CPUWNA16LinearKernel needs multiples of 32"),
        (Matrix(64, 48), "int4", -1, CPU_INT4, 1, "48 inputs per device, and CPUWNA16LinearKernel needs multiples of 32"),
        (Matrix(64, 48), "int4", -1, "MacheteLinearKernel", 1, None),  # then Humming, which takes any shape
        (Matrix(64, 60), "int4", -1, TRITON, 1, None),
        (Matrix(60, 64), "int4", -1, TRITON, 1, "60 outputs per device, and TritonW4A16LinearKernel needs multiples of 8"),
        (Matrix(64, 64, row_parallel=True), "awq", -1, "AutoAWQLinearMethod", 1, None),
        (Matrix(64, 64, row_parallel=True), "awq", -1, "AutoAWQLinearMethod", 2, "does not split a matrix"),
        (Matrix(96, 100), "bf16", None, "", 8, None),
    ],
)  # fmt: skip
def test_shapes(matrix: Matrix, layout: str, group: int | None, kernel: str, tp: int, reason: str | None) -> None:
    found = support_matrix.unservable(matrix, layout, group, kernel, tp)
    assert (found is None) == (reason is None), found
    assert (reason or "") in (found or "")


def test_the_first_of_many_shapes_is_named() -> None:
    fits, bad = Matrix(2048, 2048, row_parallel=True), Matrix(2048, 768, row_parallel=True, expert=True)
    kernels = {False: MARLIN, True: "MARLIN INT4 experts"}
    assert support_matrix.first_unservable([fits, bad], "int4", 128, kernels, 2) is None
    found = support_matrix.first_unservable([fits, bad], "int4", 128, kernels, 4)
    assert found == (bad, "192 inputs per device, which group_size=128 does not divide")


@given(
    some.integers(1, 64), some.integers(1, 64), some.sampled_from([32, 64, 128]), some.sampled_from([1, 2, 4, 8, 16])
)
def test_whole_groups_on_every_device_are_always_served(outputs: int, per_device: int, group: int, tp: int) -> None:
    row = Matrix(8 * outputs, group * per_device * tp, row_parallel=True)
    column = Matrix(8 * outputs * tp, group * per_device)
    for layout, kernel in (("int4", MARLIN), ("int4", "MacheteLinearKernel"), ("int4", TRITON)):
        assert support_matrix.unservable(row, layout, group, kernel, tp) is None
        assert support_matrix.unservable(column, layout, group, kernel, tp) is None
