"""The scales of an FP8 KV cache, in a pass of their own: the bf16 model reads the calibration text, and nothing else is made.

For what looks at no text otherwise: methods that stream, and bf16 itself. Made once for all of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from qforge.envs.request import Request, stage
from qforge.evaluation import tokenizer
from qforge.methods.llmcompressor import shown

SUFFIXES = (".k_scale", ".v_scale")


def kv_scales(request: Request) -> dict[str, Any]:
    """Writes model.safetensors with the scales alone. Returns the largest of the keys' and of the values': times 448, E4M3's
    largest, the largest key and value that the text gave."""
    source, trust = request.inputs["source"], request.job.model.trust_remote_code
    sequences = json.loads(Path(request.inputs["calibration"], "sequences.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, trust_remote_code=trust)
    recipe = QuantizationModifier(targets=[], kv_cache_scheme=request.job.kv.scheme)
    oneshot(model=model, processor=tokenizer.load(source, request.job), recipe=recipe, **shown(sequences))
    scales = {name: value.cpu() for name, value in model.state_dict().items() if name.endswith(SUFFIXES)}
    save_file(scales, Path(request.out, "model.safetensors"))
    largest = {part: max(float(v.max()) for n, v in scales.items() if n.endswith(part)) for part in SUFFIXES}
    return {"scales": len(scales), "largest_key_scale": largest[".k_scale"], "largest_value_scale": largest[".v_scale"]}


if __name__ == "__main__":
    stage(kv_scales)
