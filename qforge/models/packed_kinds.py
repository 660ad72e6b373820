"""How a matrix can be packed: by which tensors, of which dtypes and shapes, it is known.

config.json is asked only for what they leave open: the sides of FP8's blocks, and the bits of what lies in words of 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from qforge.models import quantization_config
from qforge.models.checkpoint import Stored, Tensor
from qforge.models.formats import BLOCK

PLAIN = ("BF16", "F16", "F32")
FP8, EXPONENTS = "F8_E4M3", ("U8", "F8_E8M0")
W4A4 = {"nvfp4": "nvfp4_w4a4", "nvfp4_modelopt": "nvfp4_w4a4_modelopt"}


@dataclass(frozen=True)
class Kind:
    """How a matrix is packed. `layout`: the key of formats.FORMATS that is served alike; none where there is none."""

    codec: str  # what unpacks it: methods/unpack.py
    name: str  # for people
    layout: str | None
    rows: int = 1  # that share a scale
    zeros: int = 1  # rows whose zero points share a word
    bits: int = 8
    group: int | None = None  # inputs that share a scale; none for a row or more
    symmetric: bool = True
    largest: float = 1  # a weight in units of its scale


def kind_of(found: Mapping[str, Tensor], activations: bool, quantization: dict[str, Any]) -> Kind | None:
    """How a matrix is packed, by the dtypes and shapes of its tensors, whose names are compressed-tensors' own.

    `activations`: whether there are scales for quantized activations, too; `quantization`: what config.json announces.
    """
    kind = _kind(found, quantization)
    return replace(kind, layout=W4A4.get(str(kind.layout), kind.layout)) if kind and activations else kind


def _kind(found: Mapping[str, Tensor], quantization: dict[str, Any]) -> Kind | None:
    scale = found["weight_scale"]
    if weight := found.get("weight"):
        if weight.dtype == FP8:
            return _fp8(weight, scale, quantization)
        if weight.dtype == "I8" and scale.dtype in PLAIN and _by_row(weight, scale):
            symmetric = "weight_zero_point" not in found
            return Kind("int8", "INT8", "int8" if symmetric else None, symmetric=symmetric, largest=128)
        if weight.dtype == "U8" and scale.dtype == FP8 and "weight_scale_2" in found:
            return _fp4(weight, scale, "nvfp4_modelopt", "NVFP4 by ModelOpt")
        return None
    packed = found["weight_packed"]
    if packed.dtype == "U8" and len(packed.shape) == 4 and scale.dtype in EXPONENTS:
        experts, rows, groups, half = packed.shape
        flat = Tensor("U8", (experts, rows, groups * half))
        return _fp4(flat, scale, "mxfp4", "MXFP4")
    if packed.dtype == "U8" and scale.dtype in EXPONENTS:
        return _fp4(packed, scale, "mxfp4", "MXFP4")
    if packed.dtype == "U8" and scale.dtype == FP8 and "weight_global_scale" in found:
        return _fp4(packed, scale, "nvfp4", "NVFP4")
    if packed.dtype == "I32" and scale.dtype in PLAIN:
        return _words(packed, scale, "weight_zero_point" not in found, found.get("weight_shape"), quantization)
    return None


def _fp8(weight: Tensor, scale: Tensor, quantization: dict[str, Any]) -> Kind | None:
    if said := _fp8_block(weight, scale, *_block(quantization)):
        return said
    if _by_row(weight, scale):
        name = "FP8 per channel" if scale.count > 1 else "FP8 per tensor"
        return Kind("fp8", name, "fp8", largest=448)
    if scale.shape == (*weight.shape[:-1], weight.shape[-1] / 32) and scale.dtype in EXPONENTS:
        return Kind("mxfp8", "MXFP8", None, group=32, largest=448)
    return _fp8_block(weight, scale, BLOCK, BLOCK)


def _fp8_block(weight: Tensor, scale: Tensor, height: int, width: int) -> Kind | None:
    *stacked, rows, columns = weight.shape
    if not height or scale.shape != (*stacked, ceil(rows / height), ceil(columns / width)):
        return None
    layout = "fp8_block" if (height, width) == (BLOCK, BLOCK) else None
    return Kind("fp8_block", f"FP8 in blocks of {height} x {width}", layout, height, group=width, largest=448)


def _block(quantization: dict[str, Any]) -> tuple[int, int]:
    """The sides of FP8's blocks, as transformers or compressed-tensors names them; zeros where neither does."""
    groups = [weights.get("block_structure") for weights in quantization_config.weights_of(quantization)]
    for sides in (quantization.get("weight_block_size"), *groups):
        if isinstance(sides, list) and len(sides) == 2 and all(type(side) is int and side > 0 for side in sides):
            return sides[0], sides[1]
    return 0, 0


def _fp4(packed: Tensor, scale: Tensor, codec: str, name: str) -> Kind | None:
    """Two weights in a byte; the group follows from the number of scales."""
    columns, groups = 2 * packed.shape[-1], scale.shape[-1]
    if scale.shape[:-1] != packed.shape[:-1] or not groups or columns % groups:
        return None
    group = columns // groups
    usual = 32 if codec == "mxfp4" else 16
    said = name if group == usual else f"{name} at group {group}"
    return Kind(codec, said, codec if group == usual else None, bits=4, group=group, largest=6)


def _words(
    packed: Tensor, scale: Tensor, symmetric: bool, shape: Tensor | None, quantization: dict[str, Any]
) -> Kind | None:
    """Integers in words of 32 bits: their number of bits is the one of the announced groups that fits."""
    if scale.shape[:-1] != packed.shape[:-1]:
        return None
    fitting = set[tuple[int, int | None]]()
    said = list(quantization_config.weights_of(quantization))
    for weights in said or ([_unsaid(packed, scale, shape)] if shape else []):
        bits, size = weights.get("num_bits", 8), weights.get("group_size")
        if bits not in (4, 8):
            continue
        inputs = packed.shape[-1] * 32 // bits
        if size in (None, -1) and scale.shape[-1] == 1:
            fitting.add((bits, None))
        elif type(size) is int and scale.shape[-1] * size == inputs:
            fitting.add((bits, size))
    if len(fitting) != 1:
        return None
    ((bits, size),) = fitting
    layout = ("int4" if symmetric else "int4_asym") if bits == 4 else None
    name = f"INT{bits} {f'at group {size}' if size else 'per channel'}"
    largest = 2 ** (bits - 1) if symmetric else 2**bits - 1
    return Kind("integers", name, layout, 1, 32 // bits, bits, size, symmetric, largest)


def _unsaid(packed: Tensor, scale: Tensor, shape: Tensor) -> dict[str, int]:
    """What a silent config.json would have said, by the shape that lies beside the words; 4 bits while its bytes are away."""
    width, groups, bits = packed.shape[-1] * 32, scale.shape[-1], 4
    if isinstance(shape, Stored) and (inputs := int(shape.read()[-1])) > 0:
        bits = width // inputs
    return {"num_bits": bits, "group_size": -1 if groups == 1 else width // max(bits * groups, 1)}


def _by_row(weight: Tensor, scale: Tensor) -> bool:
    """Whether there is one scale for a matrix, or one for each of its rows."""
    stacked, rows = weight.shape[:-2], weight.shape[-2]
    return (scale.count == 1 and not stacked) or scale.shape in ((*stacked, rows), (*stacked, rows, 1))


def columns_of(found: Mapping[str, Tensor], kind: Kind) -> int:
    """Inputs of a matrix, or of each of a stack; of bytes in groups (GPT-OSS) those of a group."""
    weight = found.get("weight") or found["weight_packed"]
    each = {"I32": 32 // kind.bits, "U8": 2}.get(weight.dtype, 1)
    return weight.shape[-1] * each
