"""Other people's artifacts of a small model: the tensors that a layout has, with the source's weights rounded, in units of one
scale for all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from support.checkpoints import tiny_job

from qforge.config.job import Rule
from qforge.inspect.rows import E2M1
from qforge.models.checkpoint import Stored, Tensor, companions, headers
from qforge.models.shards import Shard
from qforge.plan import plan

DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I64": np.int64,
}
LARGEST = 0.2  # of the source's weights, about: see support.checkpoints.checkpoint
VALUES = {  # by layout and suffix; what is not named is zeros
    "int4": {"weight_scale": LARGEST / 7.5},
    "nvfp4_w4a4_modelopt": {"weight_scale": 1, "weight_scale_2": LARGEST / 6, "input_scale": 0.01},
}
Change = Callable[[dict[str, np.ndarray]], None]


def artifact(
    source: Path, folder: Path, layout: str, quantization: dict[str, Any] | None, change: Change = lambda tensors: None,
    bf16: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """A checkpoint of `source` in this layout, which its config.json announces; `bf16`: parts of names left alone."""
    folder.mkdir()
    job = tiny_job(source, "method=rtn", "exempt=none")
    rules = {"own": Rule([f"re:.*{part}.*" for part in bf16], "as its author wanted")} if bf16 else {}
    job = replace(
        job, method=replace(job.method, format=layout), group_size=64 if layout == "int4" else 16, exempt=rules,
        hw=replace(job.hw, capability="10.0"),
    )  # fmt: skip
    planned, original = plan.make(job, source), headers(source)
    arrays = {name: _array(name, tensor, layout, original) for name, tensor in planned.tensors.items()}
    change(arrays)
    _write(folder / "model.safetensors", arrays)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, **({"quantization_config": quantization} if quantization else {})})
    )
    for name in companions(source):
        shutil.copyfile(source / name, folder / name)
    return folder


def _array(name: str, tensor: Tensor, layout: str, original: dict[str, Stored]) -> np.ndarray:
    matrix, _, suffix = name.rpartition(".")
    source = original.get(f"{matrix}.weight")
    if suffix == "weight" and source is not None and (source.dtype, source.shape) == (tensor.dtype, tensor.shape):
        return np.array(source.read())
    if suffix in ("weight", "weight_packed") and source is not None:
        return _codes(source.read().astype(np.float32), tensor)
    dtype = DTYPES.get(tensor.dtype, np.int32 if tensor.dtype == "I32" else np.uint8)
    return np.full(tensor.shape, VALUES[layout].get(suffix, 0), np.float32).astype(dtype)


def _codes(weights: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Four bits a weight: INT4, or FP4."""
    if tensor.dtype == "I32":
        codes = np.clip(np.rint(weights / (LARGEST / 7.5)) + 8, 0, 15).astype(np.uint32)
        return sum(codes[:, n::8] << np.uint32(4 * n) for n in range(8)).view(np.int32)
    sizes = np.abs(weights / (LARGEST / 6))[..., None]
    codes = (np.abs(sizes - np.array(E2M1)).argmin(-1) | np.where(weights < 0, 8, 0)).astype(np.uint8)
    return codes[:, ::2] | codes[:, 1::2] << 4


def _write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    spelled = {np.dtype(dtype): name for name, dtype in {**DTYPES, "I32": np.int32, "U8": np.uint8}.items()}
    shard = Shard(file, {name: Tensor(spelled[array.dtype], array.shape) for name, array in arrays.items()})
    shard.open()
    for name, array in arrays.items():
        shard.put(name, memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
    shard.close()
