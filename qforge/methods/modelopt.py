"""NVIDIA ModelOpt: NVFP4. The method's `args`: `config`, the name of one of its quantization configs."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoModelForCausalLM

from qforge.config import Job


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a ModelOpt checkpoint in `out`; returns the config as it was run.

    Exempted modules are switched off last, by their exact names, after ModelOpt's own rules.
    """
    config = deepcopy(getattr(mtq, job.method.args["config"]))
    for name in exempt:
        config["quant_cfg"].append({"quantizer_name": f"{name}.*quantizer", "enable": False})
    # llm-compressor brings each block to the GPU by itself; ModelOpt works where the model lies
    place = "auto" if torch.accelerator.is_available() else None
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, device_map=place)

    def forward_loop(model: Any) -> None:
        with torch.inference_mode():
            for sequence in sequences or []:
                model(torch.tensor([sequence], device=model.device))

    model = mtq.quantize(model, config, forward_loop if sequences else None)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=out)
    return {"config": job.method.args["config"], "disabled": exempt}
