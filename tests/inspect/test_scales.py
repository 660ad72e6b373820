"""Scales as each format stores them: what they are as numbers, and which cannot be right."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from qforge.inspect import scales
from qforge.models.checkpoint import Stored, Tensor, headers
from qforge.models.shards import Shard


def stored(folder: Path, **tensors: np.ndarray) -> dict[str, Stored]:
    """A checkpoint with the tensors of one matrix, x."""
    dtypes = {"uint8": "U8", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    planned = {f"x.{suffix}": Tensor(dtypes[str(values.dtype)], values.shape) for suffix, values in tensors.items()}
    shard = Shard(folder / "model.safetensors", planned)
    shard.open()
    for suffix, values in tensors.items():
        shard.put(f"x.{suffix}", memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8)))
    shard.close()
    return headers(folder)


WEIGHT = np.array([[1.0, -2.0, 0.0, 0.0], [3.0, 4.0, -0.5, 0.25]]).astype(ml_dtypes.bfloat16)


def test_a_byte_is_an_exponent_and_255_is_not_a_number(tmp_path: Path) -> None:
    tensors = stored(tmp_path, weight=WEIGHT, weight_scale=np.array([[125, 127], [126, 255]], np.uint8))
    found = scales.of("x", tensors)
    assert found["weight_scale"][0].tolist() == [0.25, 1.0]
    assert scales.faults(found, tensors["x.weight"], 6, False) == {"weight_scale": "NaN"}


def test_gptqs_scales_are_transposed(tmp_path: Path) -> None:
    tensors = stored(tmp_path, weight=WEIGHT, scales=np.array([[0.25, 0.5], [0.0, 0.0625]], np.float16))
    found = scales.of("x", tensors)
    assert found["scales"].tolist() == [[0.25, 0.0], [0.5, 0.0625]]  # the zero belongs to a group of zeros
    assert scales.faults(found, tensors["x.weight"], 8, False) == {}
    found["scales"][1, 1] = 0
    assert scales.faults(found, tensors["x.weight"], 8, False) == {"scales": "33.3% zero"}
    found["scales"][0, 0] = -0.25  # AutoRound's may be (Method.signed_scales), which inspect knows
    assert scales.faults(found, tensors["x.weight"], 8, False) == {"scales": "negative"}


def test_scales_of_blocks_and_of_activations(tmp_path: Path) -> None:
    block, activations = np.array([[0.01]], np.float32), np.array([np.inf], np.float32)
    tensors = stored(tmp_path, weight=WEIGHT, weight_scale=block, input_global_scale=activations)
    found = scales.of("x", tensors)
    assert scales.faults(found, tensors["x.weight"], 448, False) == {"input_global_scale": "infinite"}
    found["input_global_scale"][:] = 1
    assert scales.faults(found, tensors["x.weight"], 448, False) == {}
    found["weight_scale"][:] = 0.1
    assert "weights up to 4.5e+01" in scales.faults(found, tensors["x.weight"], 448, False)["weight_scale"]


def test_a_matrix_of_zeros_may_have_any_scale(tmp_path: Path) -> None:
    """As compressed-tensors packs one: the scales are the least that it takes (ran: 0.0078 in bf16)."""
    zeros = np.zeros((2, 4), ml_dtypes.bfloat16)
    tensors = stored(tmp_path, weight=zeros, weight_scale=np.full((2, 1), 0.0078125, np.float32))
    assert scales.faults(scales.of("x", tensors), tensors["x.weight"], 8, False) == {}
