"""A safetensors checkpoint on disk: headers and bytes, without torch and without reading what is not asked for.

Format: https://github.com/huggingface/safetensors#format (8 bytes length, a JSON header, then the raw bytes).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qforge.json_files import read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


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
            "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
        }  # fmt: skip
        return np.memmap(self.file, dtypes[self.dtype], "r", self.offset, self.shape or (1,))


def small_files(folder: Path) -> dict[str, str]:
    """Hashes of config, tokenizer, chat template ...: every file that holds no weights and is no README."""
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.suffix not in (".safetensors", *PICKLED, ".md")]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def headers(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint in `folder` by name. Raises ValueError where the files cannot be trusted."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLED)
        if pickled:
            raise ValueError(
                f"{folder}: only pickled weights ({pickled[0]}), which can run code when they are loaded; convert them "
                "with transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
            )
        raise ValueError(f"{folder}: no *.safetensors file; give a folder that has the weights of its config.json")
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, tensor in _header(file):
            if name in tensors:
                raise ValueError(f"{folder}: {name} is in both {tensors[name].file.name} and {file.name}")
            tensors[name] = tensor
    index = folder / "model.safetensors.index.json"
    if index.exists():
        listed = read_json(index).get("weight_map", {})
        for name, shard in listed.items():
            if name not in tensors or tensors[name].file.name != shard:
                raise ValueError(f"{index}: says that {name} is in {shard}, which does not have it")
        if extra := sorted(set(tensors) - set(listed)):
            raise ValueError(f"{index}: does not list {extra[0]}, which is in {tensors[extra[0]].file.name}")
    return tensors


def tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors of the checkpoint in `folder`."""
    return sum(tensor.nbytes for tensor in headers(folder).values())


def _header(file: Path) -> Iterator[tuple[str, Stored]]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{file}: truncated (its header should be {length} bytes, the file has {size})")
        try:
            header = json.loads(stream.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file}: its safetensors header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise ValueError(f"{file}: its safetensors header is not a JSON object; use a complete file")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise ValueError(f"{file}: its safetensors header is incomplete at {name}; use a complete file")
        begin, end = entry["data_offsets"]
        if entry["dtype"] not in BYTES:
            raise ValueError(f"{file}: {name} has dtype {entry['dtype']}, which qforge does not know")
        tensor = Stored(entry["dtype"], tuple(entry["shape"]), file, 8 + length + begin)
        if 8 + length + end > size or tensor.nbytes != end - begin:
            raise ValueError(f"{file}: truncated or corrupt at {name} ({size} bytes, {8 + length + end} needed)")
        yield name, tensor


def write_config(source: Path, out: Path, quantization: dict[str, Any]) -> None:
    """The source's config.json with what is said of the quantization: a library's own is in the spelling of its transformers,
    which others may read otherwise or not at all (5.23 puts two rope_theta where 5.17 wants one)."""
    config = {**read_json(source / "config.json"), "quantization_config": quantization}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
