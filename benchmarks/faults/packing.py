"""Matrices packed by rounding to nearest in every layout, and unpacked again: by numpy alone, to have something to damage.

Written from the formats, beside qforge's own reader of them (qforge/inspect/rows.py) and not from it, so that a mistake in one
is not a mistake in both. `pack(weight, group)`: float32 [rows, columns] -> tensors by suffix; `unpack(tensors)` -> float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Parts = dict[str, Array]  # of one matrix, by suffix
BF16, E4M3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
NF4 = np.array([-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0, 0.0795803, 0.1609302, 0.2461123,
                0.3379152, 0.4407098, 0.5626170, 0.7229568, 1], np.float32)  # fmt: skip
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the outputs in a word, from its lowest four bits up
SQUARE = 128  # of FP8 in blocks


@dataclass(frozen=True)
class Layout:
    """How a matrix is packed, what config.json says of it, and a method of qforge that makes it."""

    pack: Callable[[Array, int], Parts]
    unpack: Callable[[Parts], Array]
    group: int
    said: dict[str, Any]
    method: str
    codes: str  # the suffix of the packed words
    scales: tuple[str, ...]  # suffixes, the finest first
    one_global: str | None = None  # the scale that fused matrices share
    extra: dict[str, float] = field(default_factory=dict)  # a scale of activations
    served: tuple[str, ...] = ("hw=b200",)  # by what, where it is served at all


def _groups(weight: Array, group: int) -> Array:
    return weight.reshape(len(weight), -1, group)


def _words(codes: Array) -> Array:
    """Eight codes along the last axis to a word, the first in the lowest bits."""
    eights = codes.reshape(*codes.shape[:-1], -1, 8).astype(np.uint32)
    return (eights << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)


def _codes(words: Array) -> Array:
    nibbles = (words.view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
    return nibbles.reshape(*words.shape[:-1], -1).astype(np.int64)


def _affine(weight: Array, group: int, symmetric: bool, dtype: Any) -> tuple[Array, Array, Array]:
    """Codes 0 to 15 [rows, columns], zero points and scales [rows, groups]."""
    parts = _groups(weight, group)
    if symmetric:
        scale = np.abs(parts).max(-1) / 7.5
        zero = np.full(scale.shape, 8)
    else:
        low, high = np.minimum(parts.min(-1), 0), np.maximum(parts.max(-1), 0)
        scale = (high - low) / 15
        zero = np.clip(np.rint(-low / scale), 0, 15)
    scale = np.maximum(scale, 1e-6).astype(dtype)
    codes = np.clip(np.rint(parts / scale.astype(np.float32)[..., None]) + zero[..., None], 0, 15)
    return codes.reshape(weight.shape).astype(np.int64), zero.astype(np.int64), scale


def _plain(codes: Array, zero: Array, scale: Array) -> Array:
    each = codes.shape[1] // scale.shape[1]
    values: Array = (codes - zero.repeat(each, 1)).astype(np.float32) * scale.astype(np.float32).repeat(each, 1)
    return values


def int4(symmetric: bool) -> tuple[Callable[[Array, int], Parts], Callable[[Parts], Array]]:
    """compressed-tensors: eight columns to a word; zero points alike, eight rows to a word."""

    def pack(weight: Array, group: int) -> Parts:
        codes, zero, scale = _affine(weight, group, symmetric, BF16)
        parts = {
            "weight_packed": _words(codes),
            "weight_scale": scale,
            "weight_shape": np.array(weight.shape, np.int64),
        }
        return parts if symmetric else {**parts, "weight_zero_point": np.ascontiguousarray(_words(zero.T).T)}

    def unpack(parts: Parts) -> Array:
        scale = parts["weight_scale"]
        zero = np.full(scale.shape, 8) if symmetric else _codes(np.ascontiguousarray(parts["weight_zero_point"].T)).T
        return _plain(_codes(parts["weight_packed"]), zero, scale)

    return pack, unpack


def gptq(symmetric: bool) -> tuple[Callable[[Array, int], Parts], Callable[[Parts], Array]]:
    """Eight inputs to a word, transposed; zero points stored less one; g_idx names the group of each input."""

    def pack(weight: Array, group: int) -> Parts:
        codes, zero, scale = _affine(weight, group, symmetric, np.float16)
        words, zeros = np.ascontiguousarray(_words(codes).T), _words(np.ascontiguousarray((zero.T - 1) & 15))
        which = (np.arange(weight.shape[1]) // group).astype(np.int32)
        return {"qweight": words, "qzeros": zeros, "scales": np.ascontiguousarray(scale.T), "g_idx": which}

    def unpack(parts: Parts) -> Array:
        codes = _codes(np.ascontiguousarray(parts["qweight"].T))
        zero, scale = ((_codes(parts["qzeros"]) + 1) & 15).T, parts["scales"].T.astype(np.float32)
        which = parts["g_idx"]
        values: Array = (codes - zero[:, which]).astype(np.float32) * scale[:, which]
        return values

    return pack, unpack


def awq_pack(weight: Array, group: int) -> Parts:
    """Eight outputs to a word, in AWQ's order."""
    codes, zero, scale = _affine(weight, group, False, np.float16)

    def words(values: Array) -> Array:
        eights = values.T.reshape(values.shape[1], -1, 8)[..., AWQ_ORDER]
        return _words(np.ascontiguousarray(eights.reshape(values.shape[1], -1)))

    return {"qweight": words(codes), "qzeros": words(zero), "scales": np.ascontiguousarray(scale.T)}


def awq_unpack(parts: Parts) -> Array:
    def codes(words: Array) -> Array:
        eights = _codes(words).reshape(len(words), -1, 8)[..., np.argsort(AWQ_ORDER)]
        return eights.reshape(len(words), -1).T

    return _plain(codes(parts["qweight"]), codes(parts["qzeros"]), parts["scales"].T)


def _fp4(parts: Array) -> Array:
    """Codes of E2M1, two to a byte, of values in units of their scale."""
    size = np.abs(parts)[..., None]
    codes = np.abs(size - E2M1).argmin(-1) | np.where(parts < 0, 8, 0)
    flat = codes.reshape(len(codes), -1).astype(np.uint8)
    return flat[:, ::2] | flat[:, 1::2] << 4


def _of_fp4(packed: Array, scale: Array) -> Array:
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
    values = np.where(codes & 8, -1, 1) * E2M1[codes & 7]
    plain: Array = values.astype(np.float32) * scale.astype(np.float32).repeat(values.shape[1] // scale.shape[1], 1)
    return plain


def nvfp4(by: str) -> tuple[Callable[[Array, int], Parts], Callable[[Parts], Array]]:
    """Scales in E4M3, and one for the matrix: compressed-tensors ("ct") divides by it, ModelOpt multiplies. What is fused
    shares it: so it is a constant here."""
    name, codes = ("weight_global_scale", "weight_packed") if by == "ct" else ("weight_scale_2", "weight")

    def pack(weight: Array, group: int) -> Parts:
        unit = np.float32(4 / 448 / 6)  # no weight of tiny.py's model is larger than 4
        scale = np.maximum(np.abs(_groups(weight, group)).max(-1) / 6 / unit, 2**-9).astype(E4M3)
        parts = _groups(weight, group) / (scale.astype(np.float32) * unit)[..., None]
        shared = np.array([1 / unit], np.float32) if by == "ct" else np.array(unit, np.float32)
        return {codes: _fp4(parts), "weight_scale": scale, name: shared}

    def unpack(parts: Parts) -> Array:
        unit = parts[name].reshape(-1)[0]
        return _of_fp4(parts[codes], parts["weight_scale"].astype(np.float32) * (1 / unit if by == "ct" else unit))

    return pack, unpack


def mxfp4_pack(weight: Array, group: int) -> Parts:
    """Scales are powers of two: their exponents in a byte."""
    parts = _groups(weight, group)
    exponent = np.floor(np.log2(np.maximum(np.abs(parts).max(-1), 1e-30))) - 2
    return {
        "weight_packed": _fp4(parts / np.exp2(exponent)[..., None]),
        "weight_scale": (exponent + 127).astype(np.uint8),
    }


def mxfp4_unpack(parts: Parts) -> Array:
    return _of_fp4(parts["weight_packed"], np.exp2(parts["weight_scale"].astype(np.float32) - 127))


def fp8_pack(weight: Array, group: int) -> Parts:
    scale = (np.abs(weight).max(1, keepdims=True) / 448).astype(BF16)
    return {"weight": (weight / scale.astype(np.float32)).astype(E4M3), "weight_scale": scale}


def int8_pack(weight: Array, group: int) -> Parts:
    scale = (np.abs(weight).max(1, keepdims=True) / 127).astype(BF16)
    codes = np.clip(np.rint(weight / scale.astype(np.float32)), -127, 127)
    return {"weight": codes.astype(np.int8), "weight_scale": scale}


def by_row_unpack(parts: Parts) -> Array:
    plain: Array = parts["weight"].astype(np.float32) * parts["weight_scale"].astype(np.float32)
    return plain


def _spread(scale: Array, shape: tuple[int, ...]) -> Array:
    return scale.astype(np.float32).repeat(SQUARE, 0)[: shape[0]].repeat(SQUARE, 1)[:, : shape[1]]


def fp8_block_pack(weight: Array, group: int) -> Parts:
    rows, columns = (-(-size // SQUARE) for size in weight.shape)
    padded = np.zeros((rows * SQUARE, columns * SQUARE), np.float32)
    padded[: weight.shape[0], : weight.shape[1]] = np.abs(weight)
    scale = (padded.reshape(rows, SQUARE, columns, SQUARE).max((1, 3)) / 448).astype(BF16)
    return {"weight": (weight / _spread(scale, weight.shape)).astype(E4M3), "weight_scale": scale}


def fp8_block_unpack(parts: Parts) -> Array:
    plain: Array = parts["weight"].astype(np.float32) * _spread(parts["weight_scale"], parts["weight"].shape)
    return plain


def nf4_pack(weight: Array, group: int) -> Parts:
    """BitsAndBytes: one vector, the first weight in the high half of a byte; the shape lies beside it in JSON."""
    blocks = weight.reshape(-1, group)
    largest = np.maximum(np.abs(blocks).max(1), 1e-12)
    codes = np.abs((blocks / largest[:, None])[..., None] - NF4).argmin(-1).reshape(-1).astype(np.uint8)
    said = {"quant_type": "nf4", "blocksize": group, "dtype": "bfloat16", "shape": list(weight.shape)}
    state = np.frombuffer(json.dumps(said).encode(), np.uint8)
    return {"weight": (codes[::2] << 4 | codes[1::2])[:, None], "weight.absmax": largest.astype(np.float32),
            "weight.quant_map": NF4.copy(), "weight.quant_state.bitsandbytes__nf4": state}  # fmt: skip


def nf4_unpack(parts: Parts) -> Array:
    said = json.loads(parts["weight.quant_state.bitsandbytes__nf4"].tobytes())
    codes = np.stack([parts["weight"] >> 4, parts["weight"] & 15], -1).reshape(-1, said["blocksize"])
    plain: Array = (parts["weight.quant_map"][codes] * parts["weight.absmax"][:, None]).reshape(said["shape"])
    return plain


def _ct(form: str, activations: dict[str, Any] | None = None, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


_INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}
_FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
_LOCAL = {**_FP4, "dynamic": "local"}
_TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}
_CT4, _MODELOPT, _PACKED = ("weight_scale", "weight_global_scale"), ("weight_scale", "weight_scale_2"), "weight_packed"
_BY_CHANNEL = {"num_bits": 8, "strategy": "channel", "symmetric": True}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False}
_BNB = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": False,
}

LAYOUTS = {
    "int4": Layout(*int4(True), 64, _ct("pack-quantized", **_INT4, symmetric=True), "rtn", _PACKED, ("weight_scale",)),
    "int4_asym": Layout(*int4(False), 64, _ct("pack-quantized", **_INT4, symmetric=False), "awq", _PACKED, ("weight_scale",)),
    "gptq": Layout(*gptq(True), 64, {**_GPTQ, "sym": True}, "gptqmodel", "qweight", ("scales",)),
    "gptq_asym": Layout(*gptq(False), 64, {**_GPTQ, "sym": False}, "gptqmodel", "qweight", ("scales",),
                        served=("hw=b200", "unservable=measure")),
    "awq": Layout(awq_pack, awq_unpack, 64, {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True,
                  "version": "gemm", "modules_to_not_convert": ["lm_head"]}, "gptqmodel_awq", "qweight", ("scales",)),
    "nf4": Layout(nf4_pack, nf4_unpack, 64, {**_BNB, "llm_int8_skip_modules": ["lm_head"]}, "bnb_nf4", "weight",
                  ("weight.absmax",), served=("hw=h100", "runtime=transformers_bnb")),
    "nvfp4": Layout(*nvfp4("ct"), 16, _ct("nvfp4-pack-quantized", **_FP4), "nvfp4_llmc", _PACKED, _CT4, _CT4[1]),
    "nvfp4_w4a4": Layout(*nvfp4("ct"), 16, _ct("nvfp4-pack-quantized", _LOCAL, **_FP4), "nvfp4_w4a4", _PACKED, _CT4, _CT4[1],
                         {"input_global_scale": 50.0}),
    "nvfp4_modelopt": Layout(*nvfp4("modelopt"), 16, {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4",
                             "ignore": ["lm_head"]}, "nvfp4", "weight", _MODELOPT, _MODELOPT[1]),
    "nvfp4_w4a4_modelopt": Layout(*nvfp4("modelopt"), 16, {"quant_method": "modelopt", "quant_algo": "NVFP4",
                                  "ignore": ["lm_head"]}, "nvfp4", "weight", _MODELOPT, _MODELOPT[1], {"input_scale": 0.02}),
    "mxfp4": Layout(mxfp4_pack, mxfp4_unpack, 32, _ct("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group",
                    group_size=32, symmetric=True), "mxfp4", _PACKED, ("weight_scale",)),
    "int8": Layout(int8_pack, by_row_unpack, 0, _ct("int-quantized", {**_TOKEN, "type": "int"}, **_BY_CHANNEL, type="int"),
                   "w8a8", "weight", ("weight_scale",), served=("hw=h100",)),
    "fp8": Layout(fp8_pack, by_row_unpack, 0, _ct("float-quantized", {**_TOKEN, "type": "float"}, **_BY_CHANNEL, type="float"),
                  "fp8", "weight", ("weight_scale",)),
    "fp8_block": Layout(fp8_block_pack, fp8_block_unpack, 0, _ct("float-quantized", {**_TOKEN, "type": "float"}, num_bits=8,
                        type="float", strategy="block", block_structure=[SQUARE, SQUARE], symmetric=True), "fp8_block",
                        "weight", ("weight_scale",)),
}  # fmt: skip
