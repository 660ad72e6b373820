"""A safetensors checkpoint on disk: headers and bytes, without torch and without reading what is not asked for.

Format: https://github.com/huggingface/safetensors#format (8 bytes length, a JSON header, then the raw bytes).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qforge.json_files import read_json
from qforge.models import repository
from qforge.models.repository import INDEX, SINGLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
POINTER = b"version https://git-lfs"  # what such a file begins with
LONGEST_HEADER = 100_000_000  # bytes: safetensors itself reads no longer one
OWN_CONFIGS = ("config.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json", "README.md")
# What the model computes by itself: vLLM and transformers skip it (vLLM: models/utils.py, llama.py, gpt2.py, bloom.py)
BUFFER = re.compile(r"(^|\.)rotary(_pos)?_emb\.(inv_freq|(cos|sin)_cached)$|(^|\.)h\.\d+\.attn\.(masked_)?bias$")


@dataclass(frozen=True)
class Tensor:
    """Shape and dtype of a tensor in a checkpoint, in safetensors' spelling."""

    dtype: str
    shape: tuple[int, ...]

    @cached_property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.count * BYTES[self.dtype]


@dataclass(frozen=True)
class Stored(Tensor):
    """A tensor with the place of its bytes."""

    file: Path
    offset: int

    def read(self) -> NDArray[Any]:
        """The values, mapped from the file, not copied; a scalar comes as shape (1,)."""
        import ml_dtypes  # late, as numpy: who only wants names and sizes needs neither
        import numpy as np

        dtypes = {
            "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
            "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
            "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_,
            "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
        }  # fmt: skip
        return np.memmap(self.file, dtypes[self.dtype], "r", self.offset, self.shape or (1,))


def companions(folder: Path) -> list[str]:
    """The files around the weights that belong to the model, by name: tokenizer, processor, chat template, code, licence.

    Left out is what describes this one checkpoint: its config, its quantization config, its README and its index. Raises
    ValueError for a link to what is of no model: it would be copied into the artifact.
    """
    sizes = {name: (folder / name).stat().st_size for name in _names(folder)}
    names = [n for n in repository.companions(sizes, code=True) if n not in (*OWN_CONFIGS, INDEX)]
    for name in names:
        _refuse_link_outside(folder / name)
    return names


def _refuse_link_outside(file: Path) -> None:
    """A link may lead to another file of its folder, into Hugging Face's cache, and beside the weights of another folder."""
    if not file.is_symlink():
        return
    target = file.resolve()
    cached = target.parent.name == "blobs" and (target.parent.parent / "snapshots").is_dir()
    if target.parent != file.parent.resolve() and not cached and not any(target.parent.glob("*.safetensors")):
        raise ValueError(
            f"{file}: a link to {target}, where no model is; put the file itself there if it is the model's"
        )


def small_files(folder: Path) -> dict[str, str]:
    """Hashes of the configs and of the companions: what decides the model beside its weights."""
    configs = [name for name in OWN_CONFIGS[:2] if (folder / name).is_file()]
    return {name: _sha256(folder / name) for name in (*configs, *companions(folder))}


def check_own_code(folder: Path) -> None:
    """Raises ValueError for code that a config names in its auto_map and that `folder` does not have."""
    repository.check_own_code(_names(folder), lambda name: read_json(folder / name), str(folder))


def _names(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model. Raises ValueError where there is none, one is missing, or loaders differ in which."""
    listed = _weight_map(folder).values()
    names = repository.weight_files([file.name for file in folder.iterdir()], listed, str(folder))
    if (folder / SINGLE).exists() and SINGLE not in names:
        raise ValueError(
            f"{folder}: has {SINGLE}, and {INDEX}, which lists other files: libraries differ in which one they read; delete one"
        )
    return [folder / name for name in names]


def headers(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint in `folder` by name, but buffers that loaders skip.

    Raises ValueError where the files cannot be trusted.
    """
    tensors: dict[str, Stored] = {}
    for file in weight_files(folder):
        for name, tensor in _header(file).items():
            if name in tensors:
                raise ValueError(f"{folder}: {name} is in both {tensors[name].file.name} and {file.name}")
            tensors[name] = tensor
    if listed := _weight_map(folder):
        for name, shard in listed.items():
            if name not in tensors or tensors[name].file.name != shard:
                raise ValueError(f"{folder / INDEX}: says that {name} is in {shard}, which does not have it")
        if extra := sorted(set(tensors) - set(listed)):
            raise ValueError(f"{folder / INDEX}: does not list {extra[0]}, which is in {tensors[extra[0]].file.name}")
    return without_buffers(tensors)


T = TypeVar("T", bound=Tensor)


def without_buffers(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors that a loader looks for."""
    return {name: tensor for name, tensor in tensors.items() if not BUFFER.search(name)}


def _weight_map(folder: Path) -> Mapping[str, Any]:
    index = folder / INDEX
    return repository.weight_map(read_json(index) if index.exists() else None, str(folder))


def begins_like(a: Stored, b: Stored, size: int = 1 << 16) -> bool:
    """Whether two tensors have the same dtype, shape and first bytes."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with a.file.open("rb") as x, b.file.open("rb") as y:
        x.seek(a.offset)
        y.seek(b.offset)
        size = min(size, a.nbytes)
        return x.read(size) == y.read(size)


def tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors of the checkpoint in `folder`."""
    return sum(tensor.nbytes for tensor in headers(folder).values())


def _header(file: Path) -> dict[str, Stored]:
    """The tensors of one file. Their bytes must lie side by side and fill it, as safetensors' own reader asks."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        beginning = stream.read(8)
        if POINTER.startswith(beginning) and beginning:
            raise ValueError(f"{file}: is a pointer of Git LFS, not the weights themselves; fetch them (git lfs pull)")
        length = int.from_bytes(beginning, "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{file}: truncated (its header should be {length} bytes, the file has {size})")
        if length > LONGEST_HEADER:
            raise ValueError(f"{file}: its header has {length} bytes, safetensors reads {LONGEST_HEADER} at most")
        try:
            header = json.loads(stream.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{file}: its safetensors header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise ValueError(f"{file}: its safetensors header is not a JSON object; use a complete file")
    header.pop("__metadata__", None)
    tensors = {name: _stored(name, entry, file, 8 + length) for name, entry in header.items()}
    end, before = 8 + length, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != end:
            what = f"overlaps {before}" if tensor.offset < end else "leaves a hole before it"
            raise ValueError(f"{file}: corrupt at {name}, which {what}; use a complete file")
        end, before = end + tensor.nbytes, name
    if end != size:
        what = "truncated or corrupt" if end > size else "more bytes than its header says"
        raise ValueError(f"{file}: {what} at {before or 'its header'} ({size} bytes, {end} needed)")
    return tensors


def _stored(name: str, entry: Any, file: Path, data: int) -> Stored:
    """One entry of a header. `data`: where the file's bytes of tensors begin."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{file}: its safetensors header is incomplete at {name}; use a complete file")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise ValueError(f"{file}: {name} has dtype {dtype}, which qforge does not know")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{file}: corrupt at {name} (shape {shape}, data_offsets {offsets}); use a complete file")
    tensor = Stored(dtype, tuple(shape), file, data + offsets[0])
    if tensor.nbytes != offsets[1] - offsets[0]:
        raise ValueError(
            f"{file}: corrupt at {name}: {dtype}{shape} takes {tensor.nbytes} bytes, its data_offsets are {offsets}"
        )
    return tensor


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def write_config(source: Path, out: Path, quantization: dict[str, Any]) -> None:
    """The source's config.json with what is said of the quantization: a library's own is in the spelling of its transformers,
    which others may read otherwise or not at all (5.23 puts two rope_theta where 5.17 wants one)."""
    config = {**read_json(source / "config.json"), "quantization_config": quantization}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
