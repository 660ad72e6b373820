"""How a quantized matrix lies in a checkpoint: which tensors, of which dtype and shape. One entry per layout.

Established by running the writers (llm-compressor 0.14 / compressed-tensors 0.19, ModelOpt 0.47) and by what vLLM
reads (create_weights of its schemes). inspect compares every tensor of an artifact with what stands here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from qforge.models.checkpoint import Tensor

BLOCK = 128  # side of the squares of block FP8: the only one that llm-compressor writes
Packed = Callable[[int, int, int], dict[str, Tensor]]


@dataclass(frozen=True)
class Format:
    """A layout of packed weights."""

    scheme: str  # what compat.py knows it as
    bits: float  # of a weight, without its scales
    packed: Packed  # (out_features, in_features, group_size) -> suffix -> tensor
    group_sizes: tuple[int, ...]  # that exist as a format at all, -1: per output channel; empty: has no groups
    quant_method: str | None  # in config.json, as vLLM reads it
    largest: float = 1  # what a weight can be in units of its scale: 6 in FP4, 448 in E4M3, 8 or 15 steps in INT4
    unpacks: bool = True  # whether methods/unpack.py shows its quality: not where activations are quantized too


def _int4(rows: int, columns: int, group: int, *, symmetric: bool) -> dict[str, Tensor]:
    groups = 1 if group == -1 else columns // group
    tensors = {
        "weight_packed": Tensor("I32", (rows, ceil(columns / 8))),
        "weight_scale": Tensor("BF16", (rows, groups)),
        "weight_shape": Tensor("I64", (2,)),
    }
    if not symmetric:
        tensors["weight_zero_point"] = Tensor("I32", (ceil(rows / 8), groups))
    return tensors


def _nvfp4(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return {
        "weight_packed": Tensor("U8", (rows, columns // 2)),
        "weight_scale": Tensor("F8_E4M3", (rows, columns // group)),
        "weight_global_scale": Tensor("F32", (1,)),
    }


def _nvfp4_w4a4(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return {**_nvfp4(rows, columns, group), "input_global_scale": Tensor("F32", (1,))}


def _mxfp4(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return {
        "weight_packed": Tensor("U8", (rows, columns // 2)),
        "weight_scale": Tensor("U8", (rows, columns // group)),  # exponents: a scale of E is 2 ** (E - 127)
    }


def _nvfp4_modelopt(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return {
        "weight": Tensor("U8", (rows, columns // 2)),
        "weight_scale": Tensor("F8_E4M3", (rows, columns // group)),
        "weight_scale_2": Tensor("F32", ()),
    }


def _nvfp4_w4a4_modelopt(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return {**_nvfp4_modelopt(rows, columns, group), "input_scale": Tensor("F32", ())}


def _fp8(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return {"weight": Tensor("F8_E4M3", (rows, columns)), "weight_scale": Tensor("BF16", (rows, 1))}


def _fp8_block(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    scales = Tensor("BF16", (ceil(rows / BLOCK), ceil(columns / BLOCK)))
    return {"weight": Tensor("F8_E4M3", (rows, columns)), "weight_scale": scales}


def _int8(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return {"weight": Tensor("I8", (rows, columns)), "weight_scale": Tensor("BF16", (rows, 1))}


def _gptq(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    groups = 1 if group == -1 else columns // group
    return {
        "qweight": Tensor("I32", (columns // 8, rows)),
        "qzeros": Tensor("I32", (groups, rows // 8)),
        "scales": Tensor("F16", (groups, rows)),
        "g_idx": Tensor("I32", (columns,)),  # the group of each input
    }


def _awq(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    groups = 1 if group == -1 else columns // group
    return {
        "qweight": Tensor("I32", (columns, rows // 8)),
        "qzeros": Tensor("I32", (groups, rows // 8)),
        "scales": Tensor("F16", (groups, rows)),
    }


def _nf4(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    """BitsAndBytes: the matrix as one long vector, and beside it what unpacks it, some of that in JSON."""
    state = {"quant_type": "nf4", "blocksize": group, "dtype": "bfloat16", "shape": [rows, columns]}
    return {
        "weight": Tensor("U8", (rows * columns // 2, 1)),
        "weight.absmax": Tensor("F32", (rows * columns // group,)),
        "weight.quant_map": Tensor("F32", (16,)),
        "weight.quant_state.bitsandbytes__nf4": Tensor("U8", (len(json.dumps(state)),)),
    }


def _bf16(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return {"weight": Tensor("BF16", (rows, columns))}


def _mixed(rows: int, columns: int, group: int) -> dict[str, Tensor]:
    raise AssertionError("each matrix of a mix has a layout of its own")


CT = "compressed-tensors"
MIXED = "mixed"  # several of the others in one checkpoint
INT4_GROUPS = (-1, 32, 64, 128)
FORMATS = {
    "bf16": Format("bf16", 16, _bf16, (), None),
    "int4": Format("int4", 4, lambda *a: _int4(*a, symmetric=True), INT4_GROUPS, CT, 8),
    "int4_asym": Format("int4", 4, lambda *a: _int4(*a, symmetric=False), INT4_GROUPS, CT, 15),
    "gptq": Format("int4", 4, _gptq, INT4_GROUPS, "gptq", 8, unpacks=False),
    "gptq_asym": Format("int4", 4, _gptq, INT4_GROUPS, "gptq", 15, unpacks=False),
    "awq": Format("int4", 4, _awq, INT4_GROUPS[1:], "awq", 15, unpacks=False),  # AutoAWQ fails at one scale per channel
    "nf4": Format("nf4", 4, _nf4, (64,), "bitsandbytes", unpacks=False),
    "nvfp4": Format("nvfp4", 4, _nvfp4, (16,), CT, 6),
    "nvfp4_w4a4": Format("nvfp4_w4a4", 4, _nvfp4_w4a4, (16,), CT, 6, unpacks=False),
    "nvfp4_modelopt": Format("nvfp4", 4, _nvfp4_modelopt, (16,), "modelopt", 6),
    "nvfp4_w4a4_modelopt": Format("nvfp4_w4a4", 4, _nvfp4_w4a4_modelopt, (16,), "modelopt", 6, unpacks=False),
    "mxfp4": Format("mxfp4", 4, _mxfp4, (32,), CT, 6),
    "int8": Format("int8", 8, _int8, (), CT, 128, unpacks=False),
    "fp8": Format("fp8", 8, _fp8, (), CT, 448, unpacks=False),
    MIXED: Format("mixed", 8, _mixed, (), CT, unpacks=False),
    "fp8_block": Format("fp8", 8, _fp8_block, (), CT, 448, unpacks=False),
}
