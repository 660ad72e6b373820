"""AutoGPTQ 0.7.1, archived upstream: to compare with what was made then. GPTQModel is its successor (gptqmodel.py).

The method's `args` are options of its BaseQuantizeConfig. Its environment has transformers 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import auto_gptq.modeling._base as library
import torch
from auto_gptq import BaseQuantizeConfig
from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from qforge.config.job import Job
from qforge.models import checkpoint


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a checkpoint of the GPTQ format in `out`; returns the config as it was run.

    Its own loader wants CUDA and its own saver keeps the dtype it computed in, so both are done here.
    """
    if not torch.cuda.is_available():
        library.CUDA_0 = torch.device("cpu")
        torch.cuda.synchronize = lambda device=None: None
    options = {**job.method.args, "group_size": job.group_size}
    config = BaseQuantizeConfig(**options)
    plain = AutoModelForCausalLM.from_pretrained(
        source, torch_dtype=torch.float32, trust_remote_code=job.model.trust_remote_code
    )
    model = GPTQ_CAUSAL_LM_MODEL_MAP[plain.config.model_type](plain, False, config)
    leave_alone(plain, set(exempt))
    model.quantize([{"input_ids": torch.tensor([i]), "attention_mask": torch.ones(1, len(i))} for i in sequences or []])
    save(model.model, source, out, config.to_dict())
    return options


def leave_alone(model: torch.nn.Module, exempt: set[str]) -> None:
    """It has no list of exemptions: it quantizes the linear layers that it finds in a block."""
    kept, find = {module for name, module in model.named_modules() if name in exempt}, library.find_layers
    library.find_layers = lambda block: {name: m for name, m in find(block).items() if m not in kept}


def save(model: torch.nn.Module, source: Path, out: Path, quantization: dict[str, Any]) -> None:
    """One file, in the dtypes of the format, and the source's config.json with what vLLM reads of the quantization."""
    out.mkdir(parents=True, exist_ok=True)
    stored, tensors = checkpoint.headers(source), {}
    for name, value in model.state_dict().items():
        # it adds biases of zeros, and a tied head is the embedding
        added = (name.endswith(".bias") or name == "lm_head.weight") and name not in stored
        if not added:
            half = torch.float16 if name.endswith(".scales") else torch.bfloat16
            tensors[name] = (value.to(half) if value.dtype == torch.float32 else value).contiguous()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    checkpoint.write_config(source, out, quantization)
