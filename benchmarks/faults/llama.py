"""A Llama by numpy, and its checkpoint read by no other code: what a score says of a damaged artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from packing import LAYOUTS, Array

DTYPES = {
    "BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F8_E4M3": ml_dtypes.float8_e4m3fn, "I64": np.int64,
    "I32": np.int32, "I8": np.int8, "U8": np.uint8,
}  # fmt: skip
SPELLED = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
Tensors = dict[str, Array]


class Unloadable(Exception):
    """No loader could take it."""


def read(folder: Path) -> Tensors:
    """Every tensor, of the files that the index names, or of the one file. Raises Unloadable as a loader would fail."""
    try:
        index = folder / "model.safetensors.index.json"
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]
        return {name: tensor for file in sorted(names) for name, tensor in _file(folder / file).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unloadable(f"{type(error).__name__}: {error}") from None


def _file(file: Path) -> Tensors:
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {name: _tensor(content[start:], **entry) for name, entry in header.items()}


def _tensor(data: bytes, dtype: str, shape: list[int], data_offsets: list[int]) -> Array:
    return np.frombuffer(data[slice(*data_offsets)], DTYPES[dtype]).reshape(shape).copy()


def write(file: Path, tensors: Tensors) -> None:
    """One safetensors file."""
    header, end, parts = {}, 0, []
    for name, tensor in sorted(tensors.items(), key=lambda pair: -pair[1].dtype.itemsize):
        parts.append(np.ascontiguousarray(tensor).tobytes())
        header[name] = {
            "dtype": SPELLED[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(parts[-1])],
        }
        end += len(parts[-1])
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def matrices(tensors: Tensors) -> list[str]:
    """The names of the matrices of the blocks."""
    return sorted(
        name.removesuffix(".weight") for name in tensors if ".layers." in name and name.endswith("_proj.weight")
    )


def plain(tensors: Tensors, layout: str, names: list[str]) -> Tensors:
    """The model in float32, unpacked. Raises Unloadable where a tensor is missing or has another shape."""
    try:
        every = {n: t.astype(np.float32) for n, t in tensors.items() if not any(n.startswith(f"{m}.") for m in names)}
        for name in names:
            parts = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
            every[f"{name}.weight"] = LAYOUTS[layout].unpack(parts)
        return every
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise Unloadable(f"{type(error).__name__}: {error}") from None


def log_probabilities(config: dict[str, Any], weights: Tensors, tokens: Array) -> Array:
    """[tokens, vocabulary] of one sequence. Raises Unloadable where shapes or names do not fit together."""
    try:
        with np.errstate(all="ignore"):
            return _forward(config, weights, tokens)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise Unloadable(f"{type(error).__name__}: {error}") from None


def _forward(config: dict[str, Any], weights: Tensors, tokens: Array) -> Array:
    heads, shared, size = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    hidden, epsilon = weights["model.embed_tokens.weight"][tokens], config["rms_norm_eps"]
    angles = np.arange(len(tokens))[:, None] * theta ** (-np.arange(0, size, 2) / size)
    cos, sin = (np.concatenate([f(angles)] * 2, -1).astype(np.float32)[:, None] for f in (np.cos, np.sin))
    mask = np.triu(np.full((len(tokens), len(tokens)), -np.inf, np.float32), 1)

    def norm(values: Array, name: str) -> Array:
        return values / np.sqrt((values**2).mean(-1, keepdims=True) + epsilon) * weights[f"{name}.weight"]

    def turned(values: Array) -> Array:
        halves = np.concatenate([-values[..., size // 2 :], values[..., : size // 2]], -1)
        return values * cos + halves * sin

    for number in range(config["num_hidden_layers"]):
        block = f"model.layers.{number}"
        read = norm(hidden, f"{block}.input_layernorm")
        q, k, v = (
            (read @ weights[f"{block}.self_attn.{part}_proj.weight"].T).reshape(len(tokens), -1, size) for part in "qkv"
        )
        q, k = turned(q), turned(k).repeat(heads // shared, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size) + mask
        seen = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", seen / seen.sum(-1, keepdims=True), v.repeat(heads // shared, 1))
        hidden = hidden + mixed.reshape(len(tokens), -1) @ weights[f"{block}.self_attn.o_proj.weight"].T
        read = norm(hidden, f"{block}.post_attention_layernorm")
        gate, up = (read @ weights[f"{block}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{block}.mlp.down_proj.weight"].T
    logits = norm(hidden, "model.norm") @ weights["lm_head.weight"].T
    logits -= logits.max(-1, keepdims=True)
    found: Array = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return found


def divergence(reference: Array, other: Array) -> float:
    """KL(reference || other) in nats per token; NaN where the other's numbers are none."""
    return float((np.exp(reference) * (reference - other)).sum(-1).mean())
