"""Checkpoints that no plan describes are called by what they are, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from qforge.inspect.layouts import incomparable

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}
FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True}


def compressed(*weights: dict[str, Any] | None, form: str = "pack-quantized") -> dict[str, Any]:
    groups = {f"group_{number}": {"targets": ["Linear"], "weights": w} for number, w in enumerate(weights)}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        (
            compressed(FP8, form="float-quantized"),
            "quantized by compressed-tensors (float-quantized), in a layout that",
        ),
        (compressed(None), "quantized by compressed-tensors (pack-quantized), in a layout that is not described here"),
        (
            {**GPTQ, "dynamic": {"+:.*down_proj": {"bits": 8}}},
            "mixed precision (gptq has a format of its own for +:.*down_proj)",
        ),
        ({**GPTQ, "bits": 8}, "quantized by gptq, in a layout"),
        (
            {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
            "quantized by modelopt (MIXED_PRECISION), in a layout",
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "quantized by modelopt (FP8)"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "quantized by fp8, in a layout"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv", "zero_point": True}, "quantized by awq, in a layout"),
        (
            {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"},
            "quantized by auto-round (auto_round:auto_gptq), in a layout",
        ),
    ],
)
def test_what_no_plan_describes_is_called_so(quantization: dict[str, Any], words: str) -> None:
    said = incomparable({"quantization_config": quantization})
    assert said
    assert words in said
    assert said.endswith("so this is not compared; to measure it anyway, leave inspect out of stages")


@pytest.mark.parametrize(
    "quantization",
    [
        compressed(INT4), compressed(INT4, {**INT4, "group_size": 128}), GPTQ, {**GPTQ, "dynamic": {"-:.*lm_head": {}}},
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        {"quant_method": "modelopt", "kv_cache_scheme": "FP8"},
        {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}},
    ],
)  # fmt: skip
def test_what_a_plan_describes_is_compared(quantization: dict[str, Any]) -> None:
    assert incomparable({"quantization_config": quantization}) is None
    assert incomparable({}) is None
