"""A safetensors checkpoint on disk: headers and bytes, without torch and without reading what is not asked for.

Format: https://github.com/huggingface/safetensors#format (8 bytes length, a JSON header, then the raw bytes).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
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
INDEX = "model.safetensors.index.json"
PART = re.compile(r"(.*-)(\d+)-of-(\d{1,6})\.safetensors")
LONGEST_HEADER = 100_000_000  # bytes: safetensors itself reads no longer one
# What tokenizers, processors, a model's own code and licences come in. Everything else beside the weights stays where it is:
# other formats of the weights (.gguf, .onnx, .h5), optimizer states, logs
COMPANIONS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".vocab", ".bpe", ".py", ".md", "")
LARGEST_COMPANION = 100_000_000  # bytes; the largest tokenizer known has 33 MB
OWN_CONFIGS = ("config.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json", "README.md")


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


def companions(folder: Path) -> list[Path]:
    """The files around the weights that belong to the model: tokenizer, processor, chat template, code, licence.

    Left out is what describes this one checkpoint: its config, its quantization config, its README and its index.
    """
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and file.suffix in COMPANIONS
        and file.name not in OWN_CONFIGS
        and not file.name.startswith(".")
        and not file.name.endswith(".index.json")
        and file.stat().st_size <= LARGEST_COMPANION
    ]


def small_files(folder: Path) -> dict[str, str]:
    """Hashes of the config and of the companions: what decides the model beside its weights."""
    return {file.name: _sha256(file) for file in (folder / "config.json", *companions(folder))}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model, as its loaders choose them: those that the index lists, else model*.safetensors, else
    every *.safetensors. Mistral's repositories hold the weights twice: consolidated*.safetensors is not read here.

    Raises ValueError where there is none, or one is missing.
    """
    have = {file.name for file in folder.glob("*.safetensors")}
    listed = sorted({str(shard) for shard in _weight_map(folder).values()})
    names = listed or sorted(n for n in have if n.startswith("model")) or sorted(have)
    if missing := sorted({*names, *_siblings(names)} - have):
        what = f"{missing[0]} and {len(missing) - 1} more are" if len(missing) > 1 else f"{missing[0]} is"
        raise ValueError(f"{folder}: {what} missing: the download is incomplete; fetch the model again")
    if "model.safetensors" in have and listed and "model.safetensors" not in listed:
        raise ValueError(
            f"{folder}: has model.safetensors and {INDEX} of other files: loaders differ in which they read; delete one of them"
        )
    if names:
        return [folder / name for name in names]
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLED)
    if pickled:
        raise ValueError(
            f"{folder}: only pickled weights ({pickled[0]}), which can run code when they are loaded; convert them "
            "with transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise ValueError(f"{folder}: no *.safetensors file; give a folder that has the weights of its config.json")


def headers(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint in `folder` by name. Raises ValueError where the files cannot be trusted."""
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
    return tensors


def _weight_map(folder: Path) -> dict[str, Any]:
    """Tensor -> file, as the index says; empty without an index."""
    if not (folder / INDEX).exists():
        return {}
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{folder / INDEX}: its weight_map lists no tensors; fetch it again, or delete it")
    return listed


def _siblings(names: list[str]) -> set[str]:
    """All files of a set of which one is there: model-00001-of-00002.safetensors has a second part."""
    parts = [match for name in names if (match := PART.fullmatch(name))]
    return {f"{m[1]}{i:0{len(m[2])}}-of-{m[3]}.safetensors" for m in parts for i in range(1, int(m[3]) + 1)}


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
        length = int.from_bytes(stream.read(8), "little")
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
