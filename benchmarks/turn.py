"""A model whose bf16 weights come out of a 4-bit file, off that file's grid, with the same function:

    PYTHON benchmarks/turn.py SOURCE OUT        PYTHON has torch and safetensors, such as .venvs/quant/bin/python

SOURCE is a bf16 checkpoint of Llama's, Mistral's, Qwen2's or Qwen3's family. The residual stream is turned by a small random
rotation, and every matrix that reads or writes it turns with it. Values near a grid of 4 bits leave it; outlying channels
stay. Without this, formats near that grid look better than they would on a model that was never in 4 bits. The head comes
untied, since it reads the stream after a norm and the embedding writes it. Quality stays that of the 4-bit file.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SIZE = 0.1  # of the rotation; at 3 it mixes everything, and no channel is outlying any more
SEED = 0

Weights = dict[str, torch.Tensor]


def rotation(width: int) -> torch.Tensor:
    """A random rotation [width, width] in float64; near the identity."""
    found = torch.randn(width, width, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return torch.linalg.matrix_exp(SIZE * (found - found.T) / (2 * width) ** 0.5)


def turn(weights: Weights, layers: int, q: torch.Tensor) -> None:
    """Turn the residual stream by `q`, in place. Works where a norm stands before each block and nowhere else."""
    embedding = weights["model.embed_tokens.weight"]
    weights.setdefault("lm_head.weight", embedding)
    for layer in range(layers):
        block = f"model.layers.{layer}."
        reads(weights, [f"{block}self_attn.{name}_proj.weight" for name in "qkv"], f"{block}input_layernorm.weight", q)
        mlp = [f"{block}mlp.{name}_proj.weight" for name in ("gate", "up")]
        reads(weights, mlp, f"{block}post_attention_layernorm.weight", q)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"{block}{name}.weight"] = stored(q.T @ weights[f"{block}{name}.weight"].to(q))
    reads(weights, ["lm_head.weight"], "model.norm.weight", q)
    weights["model.embed_tokens.weight"] = stored(embedding.to(q) @ q)


def reads(weights: Weights, names: list[str], norm: str, q: torch.Tensor) -> None:
    """Turn matrices [out, width] behind one norm. Its gain goes through them; the new one keeps their columns of equal size."""
    plain = [weights[name].to(q) for name in names]
    turned = [(matrix * weights[norm].to(q)) @ q for matrix in plain]
    size = torch.cat(turned).pow(2).mean(0).sqrt()
    gain = size * torch.cat(plain).pow(2).mean() ** -0.5
    for name, matrix in zip(names, turned, strict=True):
        weights[name] = stored(matrix / gain)
    weights[norm] = stored(gain)


def stored(weight: torch.Tensor) -> torch.Tensor:
    """As a checkpoint holds it."""
    return weight.to("cpu", torch.bfloat16).contiguous()


def main(source: Path, out: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    weights: Weights = {}
    for file in sorted(source.glob("*.safetensors")):
        weights |= load_file(file)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    turn(weights, config["num_hidden_layers"], rotation(config["hidden_size"]).to(device))
    out.mkdir(parents=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for file in source.iterdir():
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)
    (out / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
