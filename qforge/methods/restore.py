"""What a library dropped or rounded without being asked to, put back as the source has it.

Libraries load a model in 16 bits and without the layers that it does not run, such as those of multi-token prediction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qforge.models.checkpoint import Stored, headers
from qforge.models.shards import Shard, write_index

DTYPES: dict[str, type[np.generic]] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
ADDED = "model-kept.safetensors"  # beside a checkpoint of several files; transformers reads a single one alone


def restore(source: Path, artifact: Path, kept: Collection[str]) -> list[str]:
    """Write the source's tensors of `kept` that the checkpoint lacks, or has rounded; returns their names.

    One that a method has changed on purpose, as AWQ does with norms, is left alone.
    """
    if not kept:
        return []
    originals, saved = headers(source), headers(artifact)
    back = [n for n in kept if n in originals and (n not in saved or _rounded(saved[n], originals[n]))]
    files: dict[str, dict[str, Stored]] = {}
    for name, tensor in saved.items():
        files.setdefault(tensor.file.name, {})[name] = tensor
    added = next(iter(files)) if len(files) == 1 else ADDED
    changed = set()
    for name in back:
        file = saved[name].file.name if name in saved else added
        files.setdefault(file, {})[name] = originals[name]
        changed.add(file)
    for file in sorted(changed):
        _write(artifact / file, files[file])
    if len(files) > 1 and back:
        write_index(artifact, files)
    return back


def _rounded(saved: Stored, original: Stored) -> bool:
    if (
        saved.dtype == original.dtype
        or saved.shape != original.shape
        or not {saved.dtype, original.dtype} <= DTYPES.keys()
    ):
        return False
    return bool((_in(saved.dtype, _wide(original)) == _wide(saved)).all())


def _wide(tensor: Stored) -> NDArray[np.float32]:
    """The numbers, by numpy alone: not every quantizer's environment has ml_dtypes."""
    values = np.memmap(tensor.file, DTYPES[tensor.dtype], "r", tensor.offset, tensor.shape or (1,))
    return _from_bf16(values) if tensor.dtype == "BF16" else values.astype(np.float32)


def _in(dtype: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to nearest, ties to even."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return _from_bf16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    return values.astype(DTYPES[dtype]).astype(np.float32)


def _from_bf16(bits: NDArray[Any]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _write(file: Path, tensors: Mapping[str, Stored]) -> None:
    shard = Shard(file, tensors)
    shard.open()
    for name, tensor in tensors.items():
        shard.copy(name, tensor)
    shard.close()
