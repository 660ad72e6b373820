"""What a checkpoint's config.json announces of its quantization: which layout of formats.py, at which group size.

Other people's files: every function here takes whatever JSON there is, and answers, or says by ValueError what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qforge.config.kv_cache import HEAD, TENSOR
from qforge.json_files import read_json
from qforge.models.formats import BLOCK, CT, FORMATS, MIXED

MODELOPT = {"NVFP4": "nvfp4_w4a4_modelopt", "W4A16_NVFP4": "nvfp4_modelopt"}  # by quant_algo
WHERE = "config.json: quantization_config"


def detect(config: dict[str, Any]) -> str | None:
    """The layout that this config.json announces; none where it announces no quantization, or one of no layout here.

    Raises ValueError where it says something that no loader could read.
    """
    quantization = announced(config)
    method = quantization.get("quant_method")
    if method == "modelopt":
        return MODELOPT.get(str(quantization.get("quant_algo")).upper())
    if method == "gptq" and _number(quantization, "bits") == 4:
        return "gptq" if quantization.get("sym", True) else "gptq_asym"
    if method == "awq" and _number(quantization, "bits") == 4:
        gemm = str(quantization.get("version")).lower() == "gemm"
        return "awq" if quantization.get("zero_point") and gemm else None
    if method == "bitsandbytes":
        four = quantization.get("load_in_4bit") and quantization.get("bnb_4bit_quant_type") == "nf4"
        return "nf4" if four and not quantization.get("bnb_4bit_use_double_quant") else None
    if method != CT:
        return None
    each = dict.fromkeys(packed for _, packed in groups(config))
    layouts = [layout for layout, _ in each]
    if not each:
        return "bf16"  # the KV cache alone is quantized
    return layouts[0] if len(each) == 1 else MIXED if None not in layouts else None


def groups(config: dict[str, Any]) -> list[tuple[list[str], tuple[str | None, int | None]]]:
    """Of compressed-tensors: the targets of each of its config_groups, and the layout and group size that these have."""
    quantization, found = announced(config), []
    for group in _groups(quantization):
        targets = group.get("targets") or []
        if not isinstance(targets, list):
            raise ValueError(f"{WHERE}.config_groups: targets is {targets!r:.60}, a list of names was expected")
        for target in targets:
            _refuse_expression(str(target))
        layout = _compressed(group.get("format") or quantization.get("format"), group)
        size = _number(_weights(group), "group_size") or -1
        found.append((list(map(str, targets)), (layout, _size(layout, size) if layout else None)))
    return found


def _refuse_expression(target: str) -> None:
    try:
        re.compile(target.removeprefix("re:") if target.startswith("re:") else "")
    except re.error as error:
        raise ValueError(f"{WHERE}.config_groups: {target} is not a regular expression ({error})") from None


def _size(layout: str, announced: int) -> int | None:
    """The group size of a layout: its only one, or what is announced."""
    sizes = FORMATS[layout].group_sizes
    return announced if len(sizes) > 1 else sizes[0] if sizes else None


def group_size(config: dict[str, Any], layout: str) -> int | None:
    """The group size that a checkpoint of this layout announces; -1 for one scale per channel, none without groups."""
    if FORMATS[layout].quant_method in ("gptq", "awq"):
        return _size(layout, _number(announced(config), "group_size") or -1)
    if len(FORMATS[layout].group_sizes) < 2:
        return _size(layout, -1)
    return groups(config)[0][1][1]


def announced(config: dict[str, Any]) -> dict[str, Any]:
    """The quantization_config; empty where there is none."""
    return _object(config, "quantization_config", "config.json")


def read(folder: Path) -> dict[str, Any]:
    """The config.json in `folder`, with what a file beside it says of the quantization."""
    return complete(read_json(folder / "config.json"), lambda name: _beside(folder / name))


def _beside(file: Path) -> dict[str, Any] | None:
    return read_json(file) if file.is_file() else None


def complete(config: dict[str, Any], beside: Callable[[str], dict[str, Any] | None]) -> dict[str, Any]:
    """config.json with the quantization_config that vLLM reads where config.json has none at its top: the old name of
    compressed-tensors' (transformers_utils/model_arch_config_convertor.py:266), that of the language model (the same, 305), or
    what ModelOpt before 0.31 said in hf_quant_config.json alone (transformers_utils/config.py:892). `beside`: reads a file of
    the checkpoint; none where it is not there."""
    if config.get("quantization_config") is not None:
        return config
    if old := _object(config, "compression_config", "config.json"):
        return {**config, "quantization_config": old}
    text = config.get("text_config")
    if isinstance(text, dict) and (inner := _object(text, "quantization_config", "config.json: text_config")):
        return {**config, "quantization_config": inner}
    own = beside("hf_quant_config.json")
    if own is None:
        return config
    settings = _object(own, "quantization", "hf_quant_config.json")
    quantization = {
        "quant_method": "modelopt", "quant_algo": settings.get("quant_algo"), "ignore": settings.get("exclude_modules") or [],
        "kv_cache_scheme": settings.get("kv_cache_quant_algo"),
    }  # fmt: skip
    return {**config, "quantization_config": quantization}


def without(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of the same model in bf16."""
    plain = {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}
    text = plain.get("text_config")
    return {**plain, "text_config": without(text)} if isinstance(text, dict) else plain


def has_kv_scales(config: dict[str, Any]) -> bool:
    """Whether the checkpoint announces a quantized KV cache."""
    return bool(announced(config).get("kv_cache_scheme"))


def kv_strategy(config: dict[str, Any]) -> str | None:
    """Of the scales of an FP8 KV cache: one per `tensor` or per `attn_head`; none where the checkpoint announces none.

    Raises ValueError for a cache in another form, which vLLM refuses of compressed-tensors (0.32 compressed_tensors.py:1103)
    and of ModelOpt reads as another dtype or not at all (utils/torch_utils.py:455).
    """
    scheme = announced(config).get("kv_cache_scheme")
    if not scheme:
        return None
    if announced(config).get("quant_method") != CT:
        eight = (scheme.get("num_bits"), scheme.get("type")) == (8, "float") if isinstance(scheme, dict) else None
        if eight or (eight is None and str(scheme).upper() == "FP8"):
            return TENSOR
        raise ValueError(f"{WHERE}: kv_cache_scheme is {scheme!r:.100}, FP8 (8 bits, float) was expected")
    scheme = _object(announced(config), "kv_cache_scheme", WHERE)
    read = {"num_bits": (8,), "type": ("float",), "strategy": (TENSOR, HEAD), "symmetric": (True,)}
    for key, values in read.items():
        if scheme.get(key) not in values:
            wanted = " or ".join(map(str, values))
            raise ValueError(
                f"{WHERE}.kv_cache_scheme: {key} is {scheme.get(key)!r:.60}, and vLLM reads {wanted} alone"
            )
    return str(scheme["strategy"])


def _compressed(form: Any, group: dict[str, Any]) -> str | None:
    """compressed-tensors: by format and the weights' arguments, with their defaults (its QuantizationArgs)."""
    weights = _weights(group)
    bits, kind = _number(weights, "num_bits", 8), weights.get("type", "int")
    symmetric, size = weights.get("symmetric", True), _number(weights, "group_size")
    strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
    activations = _object(group, "input_activations", WHERE)
    if form == "pack-quantized" and (bits, kind) == (4, "int") and strategy in ("group", "channel") and not activations:
        return "int4" if symmetric else "int4_asym"
    if form == "nvfp4-pack-quantized" and (bits, kind, size) == (4, "float", 16):
        return "nvfp4_w4a4" if activations else "nvfp4"
    if form == "mxfp4-pack-quantized" and (bits, kind, size) == (4, "float", 32):
        return "mxfp4"
    if form == "int-quantized" and (bits, kind, strategy) == (8, "int", "channel") and symmetric:
        return "int8"
    if form == "float-quantized" and (bits, kind) == (8, "float"):
        squares = weights.get("block_structure") == [BLOCK, BLOCK]
        return "fp8" if strategy == "channel" else "fp8_block" if strategy == "block" and squares else None
    return None


def weights_of(quantization: dict[str, Any]) -> list[dict[str, Any]]:
    """What compressed-tensors says of the weights, group by group; nothing where there are no groups."""
    return [_weights(group) for group in _groups(quantization)] if quantization.get("config_groups") else []


def _groups(quantization: dict[str, Any]) -> list[dict[str, Any]]:
    groups = _object(quantization, "config_groups", WHERE)
    if not groups and not quantization.get("kv_cache_scheme"):
        raise ValueError(f"{WHERE}.config_groups is missing or empty: nothing says how the weights are packed")
    return [_object(groups, name, f"{WHERE}.config_groups") for name in groups]


def _weights(group: dict[str, Any]) -> dict[str, Any]:
    return _object(group, "weights", f"{WHERE}.config_groups")


def _object(container: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = container.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{where}.{key} is {value!r:.60}, a JSON object was expected")
    return value


def _number(container: dict[str, Any], key: str, default: int | None = None) -> int | None:
    value = container.get(key)
    if value is not None and type(value) is not int:
        raise ValueError(f"{WHERE}: {key} is {value!r:.60}, a number was expected")
    return default if value is None else value
