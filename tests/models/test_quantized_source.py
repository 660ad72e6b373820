"""What a checkpoint is packed in, known from names, dtypes and shapes before anything is fetched; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import ROOT

from qforge.models import architectures, modules, quantization_config, quantized_source
from qforge.models.checkpoint import Tensor, headers
from qforge.models.completeness import refuse
from qforge.models.shards import Shard

Shapes = dict[str, tuple[str, tuple[int, ...]]]
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}


def tensors(stem: str, shapes: Shapes) -> dict[str, Tensor]:
    return {"norm.weight": Tensor("BF16", (256,))} | {f"{stem}{suffix}": Tensor(*t) for suffix, t in shapes.items()}


def compressed(*weights: dict[str, Any]) -> dict[str, Any]:
    groups = {f"group_{number}": {"targets": ["Linear"], "weights": w} for number, w in enumerate(weights)}
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}


def blocks(height: int, width: int) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": "fp8", "weight_block_size": [height, width]}}


FP8 = ("F8_E4M3", (300, 256))


@pytest.mark.parametrize(
    ("shapes", "config", "name", "served"),
    [
        ({".weight": FP8, ".weight_scale_inv": ("F32", (3, 2))}, {}, "FP8 in blocks of 128 x 128", ("fp8_block", None)),
        ({".weight": FP8, ".weight_scale_inv": ("F8_E8M0", (3, 2))}, {}, "FP8 in blocks of 128 x 128", ("fp8_block", None)),
        ({".weight": FP8, ".weight_scale_inv": ("F32", (5, 4))}, blocks(64, 64), "FP8 in blocks of 64 x 64", None),
        ({".weight": FP8, ".weight_scale": ("F32", ()), ".input_scale": ("F32", ())}, {}, "FP8 per tensor", ("fp8", None)),
        ({".weight": FP8, ".weight_scale": ("BF16", (300, 1))}, {}, "FP8 per channel", ("fp8", None)),
        ({".weight": FP8, ".weight_scale": ("F32", (300,))}, {}, "FP8 per channel", ("fp8", None)),
        ({".weight": FP8, ".weight_scale": ("U8", (300, 8))}, {}, "MXFP8", None),
        ({".weight": ("I8", (300, 256)), ".weight_scale": ("BF16", (300, 1))}, {}, "INT8", ("int8", None)),
        (
            {".weight": ("U8", (300, 128)), ".weight_scale": ("F8_E4M3", (300, 16)), ".weight_scale_2": ("F32", ())},
            {}, "NVFP4 by ModelOpt", ("nvfp4_modelopt", 16),
        ),
        (
            {".weight": ("U8", (300, 128)), ".weight_scale": ("F8_E4M3", (300, 16)), ".weight_scale_2": ("F32", ()),
             ".input_scale": ("F32", ())},
            {}, "NVFP4 by ModelOpt", ("nvfp4_w4a4_modelopt", 16),
        ),
        (
            {".weight_packed": ("U8", (300, 128)), ".weight_scale": ("F8_E4M3", (300, 16)),
             ".weight_global_scale": ("F32", (1,))},
            {}, "NVFP4", ("nvfp4", 16),
        ),
        ({".weight_packed": ("U8", (300, 128)), ".weight_scale": ("U8", (300, 8))}, {}, "MXFP4", ("mxfp4", 32)),
        (
            {".weight_packed": ("I32", (300, 32)), ".weight_scale": ("BF16", (300, 8)), ".weight_shape": ("I32", (2,))},
            compressed(INT4), "INT4 at group 32", ("int4", 32),
        ),
        (
            {".weight_packed": ("I32", (300, 32)), ".weight_scale": ("BF16", (300, 1)), ".weight_shape": ("I64", (2,))},
            compressed({**INT4, "strategy": "channel", "group_size": None}), "INT4 per channel", ("int4", -1),
        ),
        (
            {".weight_packed": ("I32", (300, 64)), ".weight_scale": ("BF16", (300, 2)), ".weight_shape": ("I64", (2,))},
            compressed(INT4, {**INT4, "num_bits": 8, "group_size": 128}), "INT8 at group 128", None,
        ),
    ],
)  # fmt: skip
def test_every_kind_is_known(shapes: Shapes, config: dict[str, Any], name: str, served: tuple[str, int] | None) -> None:
    stored = tensors("model.layers.0.mlp.up_proj", shapes)
    packing = quantized_source.recognize(stored, config)
    assert packing
    assert packing.summary == f"{name} (1 tensor)"
    assert packing.served == served
    assert packing.plain(stored) == {
        "norm.weight": Tensor("BF16", (256,)), "model.layers.0.mlp.up_proj.weight": Tensor("BF16", (300, 256)),
    }  # fmt: skip


def test_a_scale_without_a_weight_is_a_parameter() -> None:
    """Of Qwen3-Omni's code2wav: it packs nothing."""
    plain = tensors("code2wav.pre_transformer.layers.0.mlp_layer_scale", {".scale": ("BF16", (128,))})
    assert quantized_source.recognize(plain, {}) is None


def test_experts_in_one_tensor() -> None:
    """GPT-OSS's in MXFP4, which are unpacked as transformers does, and experts in FP8."""
    stem = "model.layers.0.mlp.experts."
    oss = {"down_proj_blocks": ("U8", (4, 128, 6, 16)), "down_proj_scales": ("U8", (4, 128, 6))}
    packing = quantized_source.recognize(tensors(stem, oss), {})
    assert packing
    assert packing.plain(tensors(stem, oss))[f"{stem}down_proj"] == Tensor("BF16", (4, 192, 128))
    fp8 = {"down_proj": ("F8_E4M3", (4, 128, 192)), "down_proj_scale_inv": ("F32", (4, 1, 2))}
    packing = quantized_source.recognize(tensors(stem, fp8), {})
    assert packing
    assert packing.plain(tensors(stem, fp8))[f"{stem}down_proj"] == Tensor("BF16", (4, 128, 192))


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, -1), (8, 64)])
def test_integers_in_words_where_config_json_is_silent(tmp_path: Path, bits: int, group: int) -> None:
    """The shape beside the words says how many bits there are; where its bytes are not here yet, 4 are taken."""
    inputs = 256
    shapes = {
        ".weight_packed": ("I32", (64, inputs * bits // 32)),
        ".weight_scale": ("BF16", (64, 1 if group < 0 else inputs // group)),
        ".weight_shape": ("I64", (2,)),
    }
    shard = Shard(tmp_path / "model.safetensors", tensors("a.up_proj", shapes))
    shard.open()
    shard.put("a.up_proj.weight_shape", memoryview(np.array([64, inputs], np.int64).view(np.uint8)))
    shard.close()
    packing = quantized_source.recognize(headers(tmp_path), {})
    assert packing
    assert packing.plain(headers(tmp_path))["a.up_proj.weight"] == Tensor("BF16", (64, inputs))
    kind = packing.matrices["a.up_proj.weight"].kind
    assert (kind.bits, kind.group) == (bits, None if group < 0 else group)
    if bits == 4:
        packing = quantized_source.recognize(tensors("a.up_proj", shapes), {})
        assert packing
        assert packing.matrices["a.up_proj.weight"].kind == kind


@pytest.mark.parametrize("scales", [(), (4, 1, 1), (4, 1, 512)])
def test_experts_in_8_bits_that_no_format_explains_are_no_plain_model(scales: tuple[int, ...]) -> None:
    stem = "model.layers.0.mlp.experts."
    shapes = {"gate_up_proj": ("F8_E4M3", (4, 256, 512))} | ({"gate_up_proj_scale": ("F32", scales)} if scales else {})
    with pytest.raises(
        ValueError, match=r"gate_up_proj is F8_E4M3\[4, 256, 512\].* no format that is unpacked here; give the"
    ):
        quantized_source.recognize(tensors(stem, shapes), {})
    plain = {"logit_scale": Tensor("F32", ()), "vision.ls1_scale": Tensor("BF16", (256,))}
    assert quantized_source.recognize({**tensors("a", {".weight": ("BF16", (8, 8))}), **plain}, {}) is None


def test_the_language_part_of_a_multimodal_model_is_packed_and_its_tower_is_not() -> None:
    """Qwen2.5-VL as it is published in FP8: what is planned is the whole model's bf16 form."""
    config = json.loads((ROOT / "data/architectures/qwen2_5_vl_7b.json").read_text())
    plain = architectures.tensors(config)
    linear = {m.tensor for m in modules.from_tensors(plain, config) if m.linear}
    stored = dict(plain)
    for name in linear:
        rows, columns = plain[name].shape
        stored |= {name: Tensor("F8_E4M3", (rows, columns)), f"{name}_scale": Tensor("BF16", (rows, 1))}
    packing = quantized_source.recognize(
        stored, config | compressed({"num_bits": 8, "type": "float", "strategy": "channel"})
    )
    assert packing
    assert packing.matrices.keys() == linear
    assert packing.plain(stored) == plain
    assert not any("visual" in name for name in linear)
    refuse("x", packing.plain(stored), config)


def test_what_only_a_server_needs_is_left_out() -> None:
    stored = tensors("a.k_proj", {".weight": FP8, ".weight_scale": ("F32", ()), ".k_scale": ("F32", ())})
    stored["a.v_scale"] = Tensor("F32", (1,))
    packing = quantized_source.recognize(stored, {})
    assert packing
    assert packing.plain(stored).keys() == {"norm.weight", "a.k_proj.weight"}


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (
            {".qweight": ("I32", (32, 300)), ".scales": ("F16", (2, 300))},
            "it is quantized by GPTQ or AWQ (a.qweight), which",
        ),
        (
            {".weight": ("U8", (9, 1)), ".weight.absmax": ("F32", (9,))},
            "it is quantized by bitsandbytes (a.weight.absmax)",
        ),
        ({".weight": ("I8", (9, 9)), ".SCB": ("F32", (9,))}, "it is quantized by bitsandbytes (a.SCB)"),
        (
            {".weight": ("U32", (9, 1)), ".scales": ("F16", (9, 1)), ".biases": ("F16", (9, 1))},
            "it is quantized by MLX",
        ),
        (
            {
                ".weight": ("U8", (300, 128)),
                ".weight_scale": ("F8_E4M3", (300, 16)),
                ".weight_scale_2": ("F32", ()),
                ".pre_quant_scale": ("BF16", (256,)),
            },
            "it is quantized by ModelOpt's AWQ, whose weights belong to scaled inputs (a.pre_quant_scale)",
        ),
        ({".weight": FP8}, "a.weight is F8_E4M3[300, 256], which is of no format that is unpacked here"),
        (
            {".weight": ("F8_E5M2", (3, 3)), ".weight_scale": ("F32", ())},
            "a.weight is F8_E5M2[3, 3], with scales F32[]",
        ),
        ({".weight": FP8, ".weight_scale": ("F32", (7, 7))}, "a.weight is F8_E4M3[300, 256], with scales F32[7, 7]"),
        (
            {".weight_packed": ("I32", (9, 8)), ".weight_scale": ("BF16", (9, 1))},
            "a.weight_packed is I32[9, 8], with scales",
        ),
        ({".weight_scale": ("F32", ())}, "a.weight_scale is F32[], which is of no format that is unpacked here"),
    ],
)
def test_what_is_not_unpacked_is_refused_with_a_way_out(shapes: Shapes, words: str) -> None:
    with pytest.raises(ValueError, match="give the bf16 model that it was made from") as refusal:
        quantized_source.recognize(tensors("a", shapes), {})
    assert words in str(refusal.value)


def test_a_parameter_that_is_called_scale() -> None:
    """Qwen3-Omni's code2wav has one for each layer: nothing is packed there."""
    stored = tensors("code2wav.pre_transformer.layers.0.self_attn_layer_scale", {".scale": ("BF16", (128,))})
    assert quantized_source.recognize(stored, {}) is None


def test_plain_weights_that_are_said_to_be_packed() -> None:
    plain = tensors("a", {".weight": ("BF16", (4, 4)), ".tid2eid": ("I64", (4, 4))})  # a table of token ids
    assert quantized_source.recognize(plain, {}) is None
    del plain["a.tid2eid"]
    with pytest.raises(ValueError, match=r"it has a quantization_config, and its weights are plain: .* delete"):
        quantized_source.recognize(plain, compressed(INT4))
    odd = {**plain, "a.codes": Tensor("I16", (4, 4))}
    with pytest.raises(ValueError, match=r"it is quantized by aqlm \(a\.codes\), which is not unpacked here"):
        quantized_source.recognize(odd, {"quantization_config": {"quant_method": "aqlm"}})
    with pytest.raises(ValueError, match=r"it has a hf_quant_config\.json, and its weights are plain"):
        quantized_source.recognize(plain, {}, ["hf_quant_config.json"])


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "auto-round", "quark", "torchao", "hqq"])
def test_config_json_alone_says_what_is_not_unpacked(method: str) -> None:
    with pytest.raises(ValueError, match=rf"it is quantized by {method} \(config\.json\), which is not unpacked here"):
        quantized_source.announced({"quantization_config": {"quant_method": method}})
    assert quantized_source.announced({"quantization_config": {"quant_method": "fbgemm_fp8"}}) == "fbgemm_fp8"


def test_the_old_name_of_the_key_is_read() -> None:
    shapes: Shapes = {
        ".weight_packed": ("I32", (300, 32)),
        ".weight_scale": ("BF16", (300, 8)),
        ".weight_shape": ("I32", (2,)),
    }
    old = {"compression_config": compressed(INT4)["quantization_config"]}
    packing = quantized_source.recognize(tensors("a", shapes), quantization_config.complete(old, lambda name: None))
    assert packing
    assert packing.served == ("int4", 32)
