"""What can be wrong with the files of an artifact, by kind: each fault changes a copy of one, at a place that is drawn."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama import Tensors, read, write
from packing import LAYOUTS, Array, Layout

OTHER_MODELS: list[tuple[str, Any]] = [
    ("rms_norm_eps", 0.1), ("num_attention_heads", 8), ("num_key_value_heads", 4), ("hidden_act", "gelu"), ("head_dim", 64),
    ("num_hidden_layers", 2), ("rope_theta", 123.0), ("attention_bias", True), ("tie_word_embeddings", True),
    ("vocab_size", 500),
]  # fmt: skip
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"


@dataclass
class Copy:
    """An artifact that may be damaged: two files of weights and an index, or one file."""

    folder: Path
    layout: str
    draw: random.Random

    @property
    def packed(self) -> Layout:
        return LAYOUTS[self.layout]

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def file(self) -> Path:
        return self.draw.choice(self.files)

    def one(self) -> Tensors:
        """All tensors, to be put back by `save`."""
        return read(self.folder)

    def save(self, tensors: Tensors) -> None:
        """Into the files that the index names; new ones into the first."""
        places = json.loads((self.folder / INDEX).read_text())["weight_map"]
        first = min(places.values())
        for file in self.files:
            write(file, {name: tensor for name, tensor in tensors.items() if places.get(name, first) == file.name})

    def matrix(self, tensors: Tensors, *leaves: str) -> str:
        """One of the packed matrices, or of those of these names."""
        named = sorted({name.rpartition(f".{self.packed.codes}")[0] for name in tensors if ".layers." in name} - {""})
        return self.draw.choice([name for name in named if name.endswith(leaves or "_proj")])

    def codes(self, tensors: Tensors) -> str:
        return f"{self.matrix(tensors)}.{self.packed.codes}"

    def scale(self, tensors: Tensors) -> str:
        return f"{self.matrix(tensors)}.{self.packed.scales[0]}"


Fault = Callable[[Copy], None]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    def named(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return named


def _bytes(tensor: Array) -> Array:
    return tensor.reshape(-1).view(np.uint8)


def _flip(copy: Copy, tensor: Array) -> None:
    """One bit of it."""
    flat = _bytes(tensor)
    flat[copy.draw.randrange(len(flat))] ^= np.uint8(1 << copy.draw.randrange(8))


def _on(name: str, pick: Callable[[Copy, Tensors], str], change: Callable[[Copy, Array], Array | None]) -> None:
    """A fault of one tensor: changed in its place, or replaced by what comes back."""

    def damage(copy: Copy) -> None:
        tensors = copy.one()
        key = pick(copy, tensors)
        changed = change(copy, tensors[key])
        if changed is not None:
            tensors[key] = np.ascontiguousarray(changed).astype(tensors[key].dtype)
        copy.save(tensors)

    FAULTS[name] = damage


def _times(factor: float) -> Callable[[Copy, Array], Array]:
    """Scales `factor` as large; exponents of two are added to."""

    def change(copy: Copy, scale: Array) -> Array:
        if scale.dtype == np.uint8:
            return scale + np.uint8(round(np.log2(factor)) % 256)
        return scale.astype(np.float32) * factor

    return change


def _one_scale(value: float, code: int) -> Callable[[Copy, Array], None]:
    """One of the scales; `code`: of a power of two in a byte."""

    def change(copy: Copy, scale: Array) -> None:
        scale.reshape(-1)[copy.draw.randrange(scale.size)] = code if scale.dtype == np.uint8 else value

    return change


def _all_scales(value: float, code: int) -> Callable[[Copy, Array], Array]:
    return lambda copy, scale: np.full(scale.shape, code if scale.dtype == np.uint8 else value, np.float64)


def _shuffled(axis: int) -> Callable[[Copy, Array], Array]:
    def change(copy: Copy, values: Array) -> Array:
        order = list(range(values.shape[axis]))
        copy.draw.shuffle(order)
        return np.take(values, order, axis)

    return change


def _burst(copy: Copy, codes: Array) -> None:
    flat = _bytes(codes)
    at = copy.draw.randrange(max(1, len(flat) - 512))
    flat[at : at + 512] = np.frombuffer(copy.draw.randbytes(len(flat[at : at + 512])), np.uint8)


def _hole(copy: Copy, codes: Array) -> None:
    flat = _bytes(codes)
    at = copy.draw.randrange(max(1, len(flat) // 512)) * 512
    flat[at : at + 512] = 0


def _reversed(copy: Copy, codes: Array) -> Array:
    backwards: Array = _bytes(codes)[::-1].copy().view(codes.dtype).reshape(codes.shape)
    return backwards


def _larger(copy: Copy, scale: Array) -> None:
    usual = float(np.median(scale.astype(np.float64)))
    _one_scale(16 * usual, int(usual) + 4)(copy, scale)


def _weights(copy: Copy, tensors: Tensors) -> str:
    """What is not packed: a norm, the embedding, the head."""
    return copy.draw.choice(sorted(n for n in tensors if "norm" in n or "embed" in n or "lm_head" in n))


def _norm(copy: Copy, tensors: Tensors) -> str:
    return copy.draw.choice(sorted(n for n in tensors if "norm" in n))


CODES, SCALE = Copy.codes, Copy.scale
_on("one bit of the packed words", CODES, _flip)
_on("512 random bytes in the packed words", CODES, _burst)
_on("512 zero bytes in the packed words", CODES, _hole)
_on("packed words all zero", CODES, lambda copy, codes: np.zeros_like(codes))
_on("packed words in another order of rows", CODES, _shuffled(0))
_on("packed words in reverse order of bytes", CODES, _reversed)
_on("one row of packed words zero", CODES, lambda copy, codes: codes.__setitem__(copy.draw.randrange(len(codes)), 0))
_on("one bit of a scale", SCALE, _flip)
_on("one scale NaN", SCALE, _one_scale(np.nan, 255))
_on("one scale zero", SCALE, _one_scale(0.0, 0))
_on("one scale subnormal", SCALE, _one_scale(2.0**-9, 1))
_on("one scale 16 times as large", SCALE, _larger)
_on("all scales of a matrix zero", SCALE, _all_scales(0.0, 0))
_on("all scales of a matrix twice as large", SCALE, _times(2))
_on("all scales of a matrix half as large", SCALE, _times(0.5))
_on("all scales of a matrix the same", SCALE, lambda copy, s: np.full(s.shape, s.astype(np.float64).mean(), np.float64))
_on("scales of a matrix in another order of rows", SCALE, _shuffled(0))
_on("one bit of what is not quantized", _weights, _flip)
_on("a norm of ones", _norm, lambda copy, values: np.ones_like(values))
_on("a norm with NaN", _norm, lambda copy, values: values.__setitem__(0, np.nan))


def _swap(tensors: Tensors, one: str, other: str) -> None:
    """Everything of two matrices, or of two blocks, by the beginnings of their names."""
    for name in [n for n in tensors if n.startswith(one + ".")]:
        twin = other + name.removeprefix(one)
        tensors[name], tensors[twin] = tensors[twin], tensors[name]


@fault("gate and up swapped, words and scales")
def _gate_and_up(copy: Copy) -> None:
    tensors = copy.one()
    gate = copy.matrix(tensors, "gate_proj")
    _swap(tensors, gate, gate.replace("gate_proj", "up_proj"))
    copy.save(tensors)


@fault("two blocks swapped")
def _blocks(copy: Copy) -> None:
    tensors = copy.one()
    one, other = copy.draw.sample(range(3), 2)
    _swap(tensors, f"model.layers.{one}", f"model.layers.{other}")
    copy.save(tensors)


@fault("scales of another matrix")
def _foreign_scales(copy: Copy) -> None:
    _take_from_up(copy, copy.packed.scales[0])


@fault("packed words of another matrix")
def _foreign_words(copy: Copy) -> None:
    _take_from_up(copy, copy.packed.codes)


def _take_from_up(copy: Copy, name: str) -> None:
    """Give a gate_proj the tensor `name` of the up_proj beside it."""
    tensors = copy.one()
    gate = f"{copy.matrix(tensors, 'gate_proj')}.{name}"
    tensors[gate] = tensors[gate.replace("gate_proj", "up_proj")]
    copy.save(tensors)


@fault("global scale of a part of a fused matrix differs")
def _unshared(copy: Copy) -> None:
    tensors = copy.one()
    if copy.packed.one_global:
        tensors[f"{copy.matrix(tensors, 'q_proj')}.{copy.packed.one_global}"] *= np.float32(
            copy.draw.choice([0.7, 1.5, 3])
        )
    else:
        name = f"{copy.matrix(tensors, 'q_proj')}.{copy.packed.scales[0]}"
        tensors[name] = _times(4)(copy, tensors[name]).astype(tensors[name].dtype)
    copy.save(tensors)


@fault("zero points, groups or global scales damaged")
def _others(copy: Copy) -> None:
    tensors = copy.one()
    suffixes = (
        ".weight_zero_point",
        ".qzeros",
        ".g_idx",
        ".weight_global_scale",
        ".weight_scale_2",
        ".quant_map",
        ".weight_shape",
    )
    named = sorted(name for name in tensors if name.endswith(suffixes))
    name = copy.draw.choice(named) if named else copy.scale(tensors)
    flat = tensors[name].reshape(-1)
    if flat.dtype == np.float32:
        flat *= copy.draw.choice([-1, 0.3, 2])
    else:
        flat[:] = flat[::-1].copy() if (flat != flat[::-1]).any() else flat * 0
    copy.save(tensors)


@fault("a file of weights truncated")
def _truncated(copy: Copy) -> None:
    file = copy.file()
    with file.open("r+b") as stream:
        stream.truncate(copy.draw.randrange(file.stat().st_size))


@fault("bytes behind the last tensor")
def _longer(copy: Copy) -> None:
    with copy.file().open("ab") as stream:
        stream.write(copy.draw.randbytes(copy.draw.choice([1, 8, 4096])))


@fault("a file of weights missing")
def _missing(copy: Copy) -> None:
    copy.file().unlink()


@fault("two files of weights swapped")
def _swapped(copy: Copy) -> None:
    one, other = copy.files
    one.rename(aside := copy.folder / "aside")
    other.rename(one)
    aside.rename(other)


@fault("a file of weights twice")
def _twice(copy: Copy) -> None:
    one, other = copy.files
    shutil.copyfile(
        one,
        copy.draw.choice([other, copy.folder / "model.safetensors", copy.folder / "model-00003-of-00003.safetensors"]),
    )


@fault("an index that names the wrong file or tensor")
def _index(copy: Copy) -> None:
    said = json.loads((copy.folder / INDEX).read_text())
    places = said["weight_map"]
    name = copy.draw.choice(sorted(places))
    match copy.draw.randrange(4):
        case 0:
            places[name] = next(file for file in places.values() if file != places[name])
        case 1:
            del places[name]
        case 2:
            places["model.layers.9.mlp.up_proj.weight"] = places[name]
        case _:
            places[name] = "../" + places[name]
    (copy.folder / INDEX).write_text(json.dumps(said))


def _header(copy: Copy, change: Callable[[dict[str, Any]], None]) -> None:
    file = copy.file()
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    said = json.loads(content[8:end])
    change(said)
    text = json.dumps(said).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


@fault("a header that says another shape, dtype or place")
def _lies(copy: Copy) -> None:
    def change(said: dict[str, Any]) -> None:
        names = sorted(name for name, entry in said.items() if len(entry.get("shape", ())) == 2)
        one = said[copy.draw.choice(names)]
        alike = [said[n] for n in names if said[n]["shape"] == one["shape"] and said[n]["dtype"] == one["dtype"]]
        match copy.draw.randrange(4):
            case 0:
                one["shape"] = one["shape"][::-1]
            case 1:
                one["dtype"] = {
                    "I32": "F32",
                    "BF16": "F16",
                    "F16": "BF16",
                    "F8_E4M3": "I8",
                    "U8": "I8",
                    "F32": "I32",
                }.get(one["dtype"], "U8")
            case 2:
                other = copy.draw.choice(alike)
                one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
            case _:
                one["data_offsets"] = [place + copy.draw.choice([-8, 8, 2**40]) for place in one["data_offsets"]]

    _header(copy, change)


@fault("a bit of a header")
def _header_bit(copy: Copy) -> None:
    file = copy.file()
    content = bytearray(file.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    content[copy.draw.randrange(end)] ^= 1 << copy.draw.randrange(8)
    file.write_bytes(content)


@fault("another tokenizer")
def _tokenizer(copy: Copy) -> None:
    file = copy.folder / TOKENIZER
    said = json.loads(file.read_text())
    vocabulary = said["model"]["vocab"]
    one, other = copy.draw.sample(sorted(vocabulary), 2)
    match copy.draw.randrange(3):
        case 0:
            vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        case 1:
            said["model"]["merges"] = said["model"]["merges"][:-100]
        case _:
            return file.unlink()
    file.write_text(json.dumps(said))


@fault("config.json of another model")
def _config(copy: Copy) -> None:
    key, value = copy.draw.choice(OTHER_MODELS)
    _edit(copy, lambda said: (said["rope_parameters"] if key == "rope_theta" else said).update({key: value}))


@fault("config.json announces another packing")
def _announced(copy: Copy) -> None:
    def change(said: dict[str, Any]) -> None:
        quantization = said["quantization_config"]
        groups = quantization.get("config_groups")
        weights = groups["group_0"]["weights"] if groups else quantization
        changes: list[Callable[[], Any]] = [
            lambda: said.pop("quantization_config"),
            lambda: quantization.update(
                {
                    k: ["lm_head", "model.layers.1.mlp.down_proj"]
                    for k in ("ignore", "modules_to_not_convert", "llm_int8_skip_modules")
                }
            ),
            lambda: quantization.update(quant_method="fp8"),
            lambda: weights.update({("num_bits" if groups else "bits"): 8, "quant_algo": "FP8", "load_in_4bit": False}),
            lambda: weights.update(
                group_size=32 if weights.get("group_size") != 32 else 16,
                quant_algo="NVFP4_X",
                bnb_4bit_quant_type="fp4",
            ),
        ]
        copy.draw.choice(changes)()

    _edit(copy, change)


def _edit(copy: Copy, change: Callable[[dict[str, Any]], Any]) -> None:
    file = copy.folder / "config.json"
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))
