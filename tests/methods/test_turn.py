"""benchmarks/turn.py: the same function, and weights that have left the grid of their 4-bit file."""

from __future__ import annotations

import json
from pathlib import Path

from support.checkpoints import in_quant
from support.command import ROOT

MAKE = """
import sys, torch
from transformers import Qwen2Config, Qwen2ForCausalLM
torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=128, tie_word_embeddings=True)
model = Qwen2ForCausalLM(Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2)).bfloat16()
with torch.no_grad():
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.uniform_(0.5, 2)
        else:
            weight.copy_((weight * 200).round() / 200)  # a grid
model.save_pretrained(sys.argv[1])
"""
COMPARE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in sys.argv[1:]]
ids = torch.arange(0, 128)[None]
with torch.inference_mode():
    before, after = (model(ids).logits for model in models)
apart = float((before - after).norm() / before.norm())
grids = [model.model.layers[0].mlp.up_proj.weight.unique().numel() for model in models]
print(json.dumps({"apart": apart, "values": grids}))
"""


def test_a_turned_model_is_the_same_function_off_its_grid(tmp_path: Path) -> None:
    source, turned = tmp_path / "source", tmp_path / "turned"
    in_quant("-c", MAKE, source)
    in_quant(ROOT / "benchmarks" / "turn.py", source, turned)
    assert json.loads((turned / "config.json").read_text())["tie_word_embeddings"] is False
    found = json.loads(in_quant("-c", COMPARE, source, turned).stdout)
    assert found["apart"] < 0.02  # of rounding to bf16
    on_grid, off_grid = found["values"]
    assert off_grid > 5 * on_grid
