"""What other people's config.json announce, and that anything else is answered or refused, never a traceback."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qforge.inspect import ignore_list
from qforge.models import modules, quantization_config
from qforge.models.formats import FORMATS


def compressed(form: str, activations: Any = None, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}


@pytest.mark.parametrize(
    ("said", "layout"),
    [
        (None, None),
        ({}, None),
        ({"quant_method": "fp8"}, None),
        ({"quant_method": ["gptq"]}, None),
        (compressed("pack-quantized", **INT4), "int4"),
        (compressed("pack-quantized", **{**INT4, "symmetric": False}), "int4_asym"),
        (compressed("pack-quantized", num_bits=4, strategy="channel"), "int4"),  # type and symmetric have defaults
        (compressed("pack-quantized", **{**INT4, "num_bits": 8}), None),  # W8A16
        (compressed("pack-quantized", TOKEN, **INT4), None),  # W4A8
        (compressed("pack-quantized", num_bits=8, type="int", strategy="channel"), None),
        (compressed("nvfp4-pack-quantized", **FP4), "nvfp4"),
        (compressed("nvfp4-pack-quantized", FP4, **FP4), "nvfp4_w4a4"),
        (compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32), "mxfp4"),
        (compressed("float-quantized", TOKEN, **FP8), "fp8"),
        (compressed("float-quantized", TOKEN, **{**FP8, "strategy": "tensor"}), None),
        (compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[128, 128]), "fp8_block"),
        (compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[64, 64]), None),
        (compressed("int-quantized", TOKEN, num_bits=8, type="int", strategy="channel"), "int8"),
        (compressed("int-quantized", TOKEN, num_bits=4, type="int", strategy="channel"), None),
        (compressed("marlin-24", **INT4), None),
        ({**compressed("pack-quantized"), "config_groups": {"a": {"weights": INT4}, "b": {"weights": None}}}, None),
        ({**compressed("pack-quantized"), "config_groups": {"a": {"weights": INT4}, "b": {"weights": INT4}}}, "int4"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),  # sym is GPTQ's default
        ({"quant_method": "gptq", "bits": 8, "sym": True}, None),
        ({"quant_method": "awq", "bits": 4, "zero_point": True, "version": "GEMM"}, "awq"),
        ({"quant_method": "awq", "bits": 4, "zero_point": True, "version": None}, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
    ],
)  # fmt: skip
def test_the_layout_is_told_by_the_config(said: Any, layout: str | None) -> None:
    assert quantization_config.detect({"quantization_config": said}) == layout


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("gptq", r"config\.json\.quantization_config is 'gptq', a JSON object was expected"),
        ([1], r"quantization_config is \[1\], a JSON object was expected"),
        ({"quant_method": "compressed-tensors"}, r"quantization_config\.config_groups is missing or empty"),
        ({"quant_method": "compressed-tensors", "config_groups": [1]}, r"config_groups is \[1\], a JSON object"),
        (compressed("pack-quantized", num_bits="four"), r"num_bits is 'four', a number was expected"),
        ({"quant_method": "gptq", "bits": "4"}, r"bits is '4', a number was expected"),
    ],
)
def test_what_no_loader_could_read_is_said(said: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quantization_config.detect({"quantization_config": said})


KEYS = ("quant_method", "quant_algo", "bits", "sym", "version", "zero_point", "load_in_4bit", "bnb_4bit_quant_type", "format",
        "config_groups", "group_0", "weights", "input_activations", "num_bits", "type", "strategy", "symmetric", "group_size",
        "block_structure", "ignore", "modules_to_not_convert", "dynamic")  # fmt: skip
WORDS = ("compressed-tensors", "gptq", "awq", "modelopt", "bitsandbytes", "pack-quantized", "float-quantized", "int",
         "nvfp4-pack-quantized", "float", "group", "channel", "block", "NVFP4", "re:(", "(", "lm_head", "")  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 128) | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
)
METHODS = st.sampled_from(sorted(ignore_list.MATCHERS))
NAMED = st.builds(
    lambda rest, method: {**rest, "quant_method": method}, st.dictionaries(st.sampled_from(KEYS), JSON), METHODS
)


@settings(max_examples=500)
@given(said=JSON | NAMED)
def test_anything_is_answered_or_refused(said: Any) -> None:
    config = {"quantization_config": said}
    with suppress(ValueError):
        layout = quantization_config.detect(config)
        size = quantization_config.group_size(config, layout) if layout else None
        assert layout is None or layout in FORMATS
        assert size is None or type(size) is int


@settings(max_examples=500)
@given(said=NAMED)
def test_any_ignore_list_is_read_or_refused(said: dict[str, Any]) -> None:
    linear = modules.Module(
        "a.up_proj", "mlp", 8, 8, served="a.up_proj", fused="a.gate_up_proj", tensor="a.up_proj.weight"
    )
    with suppress(ValueError):
        assert ignore_list.left_plain(said, [linear], {}, []) <= {"a.up_proj"}
