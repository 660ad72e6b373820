"""A model out of a 4-bit file, off that file's grid: the same function, and no group of weights on sixteen values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import in_quant
from support.command import Cli

from qforge.models import checkpoint, turning
from qforge.models.checkpoint import Stored

MAKE = """
import sys, torch
from pathlib import Path
from transformers import Qwen2Config, Qwen2ForCausalLM
from qforge.models import turning
torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=128, tie_word_embeddings=True)
model = Qwen2ForCausalLM(Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2)).bfloat16()
with torch.no_grad():
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.uniform_(0.5, 2)
        elif name.endswith("bias"):
            weight.normal_()
        else:
            weight.copy_((weight * 200).round() / 200)  # a grid
for folder in sys.argv[1:]:
    model.save_pretrained(folder)
turning.turn(Path(sys.argv[2]))
"""
COMPARE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in sys.argv[2:]]
ids = torch.tensor(json.loads(sys.argv[1]))[None]
with torch.inference_mode():
    before, after = (model(ids).logits[0].log_softmax(-1) for model in models)
print(json.dumps({"kl": float((before.exp() * (before - after)).sum(-1).mean())}))
"""


def kl(before: Path, after: Path, ids: list[int]) -> float:
    """In nats per token, both computed in float32."""
    found = json.loads(in_quant("-c", COMPARE, json.dumps(ids), before, after).stdout)
    return float(found["kl"])


def values_per_group(folder: Path) -> list[int]:
    """Of each matrix in the blocks: the fewest distinct values that a group of 32 inputs has."""
    matrices = [t for n, t in checkpoint.headers(folder).items() if ".layers." in n and len(t.shape) == 2]
    return [fewest(matrix) for matrix in matrices]


def fewest(matrix: Stored) -> int:
    groups = np.sort(np.asarray(matrix.read()).view(np.uint16).reshape(-1, 32), axis=1)
    return int((np.diff(groups, axis=1) != 0).sum(axis=1).min()) + 1


def test_a_turned_model_is_the_same_function_with_biases_too(tmp_path: Path) -> None:
    in_quant("-c", MAKE, tmp_path / "source", tmp_path / "turned")
    assert json.loads((tmp_path / "turned/config.json").read_text())["tie_word_embeddings"] is False
    assert kl(tmp_path / "source", tmp_path / "turned", list(range(128))) < 1e-4


def test_the_demo_model_turned_is_the_same_function_off_its_grid(cli: Cli, model: Path) -> None:
    done = cli.succeed("model=smollm2_135m_turned", "method=bf16", "stages=[quantize,inspect]")
    turned = Path(done.json("plan")["source"])
    assert "rotated off that file's grid" in done.output
    planned = set(checkpoint.headers(turned))
    assert planned == set(checkpoint.headers(model)) | {"lm_head.weight"}
    assert max(values_per_group(model)) <= 16, "Q4_1 has sixteen values in a group"
    assert min(values_per_group(turned)) > 16
    vocabulary = json.loads((turned / "tokenizer.json").read_text())["model"]["vocab"]
    said = "ten minutes of the first day, and all the years after that"
    words = [vocabulary["Ġ" + word] for word in said.replace(",", "").split()]
    assert kl(model, turned, words) < 1e-3


def test_a_family_with_norms_elsewhere_is_refused_in_the_plan(cli: Cli) -> None:
    done = cli.inside("model=gemma3_270m", "model.gguf.turned=true", "plan_only=true")
    assert done.code == 2
    assert (
        "model=gemma3_270m model.gguf.turned=true: gemma3_text is not of the families that can be turned" in done.output
    )


@pytest.mark.parametrize("family", turning.FAMILIES)
def test_what_is_planned_of_a_turned_model_has_a_head_of_its_own(family: str) -> None:
    assert turning.planned("x", {"model_type": family, "tie_word_embeddings": True})["tie_word_embeddings"] is False
