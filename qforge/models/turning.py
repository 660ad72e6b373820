"""A checkpoint out of a 4-bit file, off that file's grid and with the same function.

Values that were on a grid of 4 bits are on it still, and every format near that grid looks better than it would on a model
that never was in 4 bits. Here the residual stream is turned by a small random rotation, and every matrix that reads or writes
it turns with it: https://arxiv.org/abs/2401.15024 says why the function stays. Outlying channels stay, too, and so does what
the file's 4 bits have lost. The head comes untied: it reads the stream after a norm, and the embedding writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Weights = dict[str, torch.Tensor]

# their norms stand before the blocks and nowhere else in the stream, and no weight but those named here touches it
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SIZE = 0.1  # of the rotation; at 3 it mixes everything, and no channel is outlying any more
SEED = 0


def planned(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the turned model. Raises ValueError for a family that cannot be turned."""
    if (family := config.get("model_type")) not in FAMILIES:
        raise ValueError(
            f"model={name} model.gguf.turned=true: {family} is not of the families that can be turned "
            f"({', '.join(FAMILIES)}); use model.gguf.turned=false"
        )
    return {**config, "tie_word_embeddings": False}


def turn(folder: Path) -> None:
    """Turn the bf16 checkpoint in `folder`, in place; its weights are one file afterwards."""
    from safetensors.torch import load_file, save_file

    config = planned(folder.name, json.loads((folder / "config.json").read_text()))
    weights: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
        file.unlink()
    turn_weights(weights, config["num_hidden_layers"], rotation(config["hidden_size"]))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def rotation(width: int) -> torch.Tensor:
    """A random rotation [width, width] in float64, near the identity."""
    import torch

    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return torch.linalg.matrix_exp(SIZE * (drawn - drawn.T) / (2 * width) ** 0.5)


def turn_weights(weights: Weights, layers: int, q: torch.Tensor) -> None:
    """Turn the residual stream of a model of `layers` blocks by `q` [hidden_size, hidden_size], in place."""
    embedding = weights["model.embed_tokens.weight"]
    weights.setdefault("lm_head.weight", embedding)
    for layer in range(layers):
        block = f"model.layers.{layer}."
        _read(weights, [f"{block}self_attn.{name}_proj.weight" for name in "qkv"], f"{block}input_layernorm.weight", q)
        mlp = [f"{block}mlp.{name}_proj.weight" for name in ("gate", "up")]
        _read(weights, mlp, f"{block}post_attention_layernorm.weight", q)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"{block}{name}.weight"] = _stored(q.T @ weights[f"{block}{name}.weight"].to(q))
    _read(weights, ["lm_head.weight"], "model.norm.weight", q)
    weights["model.embed_tokens.weight"] = _stored(embedding.to(q) @ q)


def _read(weights: Weights, names: list[str], norm: str, q: torch.Tensor) -> None:
    """Turn matrices [out, hidden_size] behind one norm. Its gain goes through them; the new one keeps their columns of equal
    size, since with the old one a small gain makes a huge column."""
    import torch

    plain = [weights[name].to(q) for name in names]
    turned = [(matrix * weights[norm].to(q)) @ q for matrix in plain]
    size = torch.cat(turned).pow(2).mean(0).sqrt()
    gain = size * torch.cat(plain).pow(2).mean() ** -0.5
    for name, matrix in zip(names, turned, strict=True):
        weights[name] = _stored(matrix / gain)
    weights[norm] = _stored(gain)


def _stored(weight: torch.Tensor) -> torch.Tensor:
    """As a checkpoint holds it."""
    import torch

    return weight.to(torch.bfloat16).contiguous()
