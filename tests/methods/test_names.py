"""What libraries go by names for: which matrices share a scale, and which module makes the logits."""

from __future__ import annotations

import json

from support.checkpoints import in_quant

SCRIPT = """
import json
import torch
from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM
from qforge.methods.llmcompressor import heads
from qforge.methods.packing import sets
from qforge.models.modules import Module

def matrices(kind, fused, *leaves):
    at = "model.layers.0.part."
    return [Module(f"{at}{leaf}", kind, 64, 64, served=f"{at}{leaf}", fused=f"{at}{fused or leaf}") for leaf in leaves]

groups = {
    "vLLM's": matrices("mixer", "in_proj_qkvg", "q_proj", "k_proj", "v_proj", "g_proj"),
    "nobody's": matrices("attention", None, "q_proj", "k_proj", "v_proj", "g_proj"),
    "experts": matrices("expert", "experts", "gate_proj", "up_proj", "down_proj"),
}
small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
with torch.device("meta"):
    model = ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**small, pad_token_id=0, bos_token_id=1, eos_token_id=2))
print(json.dumps({name: [[m.leaf for m in group] for group in sets(found)] for name, found in groups.items()}))
print(json.dumps(heads(model)))
"""


def test_names_that_libraries_go_by() -> None:
    """OLMo hybrid's gate is in one matrix with q, k and v; the head of ModernBERT's decoder is called decoder, and tied."""
    sets, heads = map(json.loads, in_quant("-c", SCRIPT).stdout.splitlines()[-2:])
    assert sets == {
        "vLLM's": [["q_proj", "k_proj", "v_proj", "g_proj"]],
        "nobody's": [["q_proj", "k_proj", "v_proj"], ["g_proj"]],
        "experts": [["gate_proj", "up_proj"], ["down_proj"]],
    }
    assert heads == ["decoder"]
