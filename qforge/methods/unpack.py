"""Packed weights back to plain ones, by the libraries' own code: compressed-tensors and ModelOpt."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.entrypoints.convert.converters import FP8BlockDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from qforge.models.packed_kinds import Kind

# Rows of a matrix, or of one of a stack: its tensors by their names in compressed-tensors -> [rows, in_features]
Unpack = Callable[[dict[str, torch.Tensor]], torch.Tensor]


@cache
def unpacker(kind: Kind) -> Unpack:
    """What unpacks matrices of this kind, in the library's own precision."""
    if kind.codec == "fp8_block":
        return _fp8_blocks(kind)
    if kind.codec == "nvfp4_modelopt":
        return _modelopt(kind)
    return _compressed(kind)


def _compressed(kind: Kind) -> Unpack:
    floats = {"num_bits": 8 if kind.codec in ("fp8", "mxfp8") else 4, "type": "float", "group_size": kind.group}
    form, weights = {
        "fp8": ("float-quantized", {**floats, "strategy": "channel", "group_size": None}),
        "mxfp8": ("mxfp8-quantized", {**floats, "strategy": "group", "scale_dtype": torch.uint8}),
        "mxfp4": ("mxfp4-pack-quantized", {**floats, "strategy": "group", "scale_dtype": torch.uint8}),
        "nvfp4": ("nvfp4-pack-quantized", {**floats, "strategy": "tensor_group", "scale_dtype": torch.float8_e4m3fn}),
        "int8": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
        "integers": (
            "pack-quantized",
            {"num_bits": kind.bits, "strategy": "group" if kind.group else "channel", "group_size": kind.group},
        ),
    }[kind.codec]
    scheme = QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(**weights, symmetric=kind.symmetric), format=form
    )
    compressor = BaseCompressor.get_value_from_registry(form)

    def unpack(part: dict[str, torch.Tensor]) -> torch.Tensor:
        scale = part["weight_scale"]
        if kind.codec in ("fp8", "int8"):
            part = {**part, "weight_scale": scale.reshape(-1, 1)}  # checkpoints have a scale per row also as [rows]
        elif scale.dtype == torch.float8_e8m0fnu:
            part = {**part, "weight_scale": scale.view(torch.uint8)}
        plain: torch.Tensor = compressor.decompress(part, scheme)["weight"]
        return plain

    return unpack


def _fp8_blocks(kind: Kind) -> Unpack:
    convert = FP8BlockDequantizer(targets=["re:.*"], weight_block_size=(kind.rows, kind.group))

    def unpack(part: dict[str, torch.Tensor]) -> torch.Tensor:
        tensors = {"x.weight": part["weight"], "x.weight_scale_inv": part["weight_scale"].float()}
        plain: torch.Tensor = convert.process(tensors)["x.weight"]
        return plain

    return unpack


def _modelopt(kind: Kind) -> Unpack:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor  # late: it takes seconds, and few need it

    def unpack(part: dict[str, torch.Tensor]) -> torch.Tensor:
        rows, half = part["weight"].shape
        packed: Any = NVFP4QTensor(torch.Size((rows, 2 * half)), torch.bfloat16, part["weight"])
        scales = {"scale": part["weight_scale"], "double_scale": part["weight_scale_2"]}
        plain: torch.Tensor = packed.dequantize(dtype=torch.bfloat16, block_sizes={-1: kind.group}, **scales)
        return plain

    return unpack
