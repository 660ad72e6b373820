"""The weights that a packed matrix stands for, by the definition of its format, whatever a runtime makes of it.

Written down after compressed-tensors 0.19 (compressors/pack_quantized, nvfp4, mxfp4, naive) and bitsandbytes' NF4; told by
its tensors alone, so that a checkpoint of mixed precision needs nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qforge.models.formats import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # E2M1 without its sign, the highest of the four bits
NF4_STATE = "weight.quant_state.bitsandbytes__nf4"


def weights(tensors: Mapping[str, Tensor]) -> Any:
    """The matrix [out_features, in_features] in float32, none for a layout not known here. `tensors`: its own, by suffix."""
    import torch

    if NF4_STATE in tensors:
        return _nf4(tensors)
    packed, scale = tensors.get("weight_packed", tensors.get("weight")), tensors.get("weight_scale")
    if packed is None or scale is None:
        return None
    if packed.dtype == torch.int32 and "weight_shape" in tensors:
        return _integers(packed, scale, tensors)
    if packed.dtype == torch.uint8 and "weight_packed" in tensors:
        steps = scale.float()
        if scale.dtype == torch.uint8:  # MXFP4's exponents
            steps = torch.exp2(steps - 127)
        return _fp4(packed) * _spread(steps / tensors.get("weight_global_scale", torch.ones(1)), 2 * packed.shape[1])
    if packed.dtype in (torch.int8, torch.float8_e4m3fn):
        return packed.float() * _of_blocks(scale.float(), packed.shape)
    return None


def _integers(packed: Tensor, scale: Tensor, tensors: Mapping[str, Tensor]) -> Any:
    """Of 4 or 8 bits, the first in the lowest of a word, raised by half their range; zero points are packed down the rows."""
    import torch

    rows, columns = tensors["weight_shape"].tolist()
    bits = 32 * packed.shape[1] // columns
    values = _words(packed, bits)[:, :columns].float()
    zero = torch.full_like(scale, 2 ** (bits - 1), dtype=torch.float32)
    if (points := tensors.get("weight_zero_point")) is not None:
        zero = _words(points.T, bits)[:, :rows].T.float()
    groups = tensors.get("weight_g_idx")
    if groups is not None:  # the group of each input
        return (values - zero[:, groups]) * scale.float()[:, groups]
    return (values - _spread(zero, columns)) * _spread(scale.float(), columns)


def _words(packed: Tensor, bits: int) -> Any:
    """[rows, words of 32 bits] -> [rows, numbers]."""
    import torch

    shifts = torch.arange(0, 32, bits)
    return ((packed[:, :, None] >> shifts) & (2**bits - 1)).flatten(1)


def _fp4(packed: Tensor) -> Any:
    """[rows, bytes] -> [rows, numbers], the first in the lower half of a byte."""
    import torch

    codes = torch.stack((packed & 15, packed >> 4), -1).flatten(1).long()
    return torch.tensor((*FP4, *(-value for value in FP4)))[codes]


def _nf4(tensors: Mapping[str, Tensor]) -> Any:
    """One long vector, the first of two numbers in the upper half of a byte, and the largest of each block beside it."""
    import torch

    state = json.loads(bytes(tensors[NF4_STATE].tolist()))
    packed = tensors["weight"].flatten()
    codes = torch.stack((packed >> 4, packed & 15), -1).flatten().long()
    largest = tensors["weight.absmax"].float().repeat_interleave(state["blocksize"])
    return (tensors["weight.quant_map"].float()[codes] * largest[: len(codes)]).view(state["shape"])


def _spread(scales: Tensor, columns: int) -> Any:
    """[rows, groups] -> [rows, columns]."""
    return scales.repeat_interleave(columns // scales.shape[1], 1)


def _of_blocks(scales: Tensor, shape: tuple[int, ...]) -> Any:
    """One scale for all, for each row, or for each square of a matrix: as large as it, or broadcast to it."""
    if scales.numel() == 1 or scales.shape[-1] == 1:
        return scales
    return scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: shape[0], : shape[1]]
