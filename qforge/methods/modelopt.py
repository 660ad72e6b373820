"""NVIDIA ModelOpt: NVFP4. The method's `args`: `config`, the name of one of its quantization configs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoModelForCausalLM

from qforge.config import Job
from qforge.methods.routing import Routing


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a ModelOpt checkpoint in `out`; returns the config as it was run.

    Exempted modules are switched off last, by their exact names, after ModelOpt's own rules.
    """
    config = deepcopy(getattr(mtq, job.method.args["config"]))
    for entry in config["quant_cfg"]:
        if "block_sizes" in (entry.get("cfg") or {}):
            entry["cfg"]["block_sizes"][-1] = job.group_size  # 16, unless its quality alone is asked for
    for pattern in dict.fromkeys(quantizers(exempt)):
        config["quant_cfg"].append({"quantizer_name": pattern, "enable": False})
    # llm-compressor brings each block to the GPU by itself; ModelOpt works where the model lies
    place = "auto" if torch.accelerator.is_available() else None
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, trust_remote_code=job.model.trust_remote_code, device_map=place
    )

    routing = Routing(model, exempt, lambda module, hook: module.register_forward_pre_hook(hook))

    def forward_loop(model: Any) -> None:
        with torch.inference_mode():
            for sequence in sequences or []:
                model(torch.tensor([sequence], device=model.device))
        routing.stop()  # some algorithms ask for several passes, and the export makes one of its own

    model = mtq.quantize(model, config, forward_loop if sequences else None)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=out)
    name_exactly(out, exempt)
    return {"config": job.method.args["config"], "disabled": exempt, "experts": routing.counts()}


def quantizers(exempt: Sequence[str]) -> Iterator[str]:
    """The quantizers of exempted modules, as patterns. Those of experts lie side by side in the module that holds them all."""
    for name in exempt:
        holder, _, expert = name.partition(".experts.")
        yield f"{holder}.experts.*quantizer*" if expert else f"{name}.*quantizer"


def name_exactly(out: Path, exempt: list[str]) -> None:
    """List what is in bf16 by its exact names: vLLM reads the exporter's `model.layers.1*` as a part of a name, which
    catches blocks 10-19 too (quantization/modelopt.py:191)."""
    for file, keys in (
        ("config.json", ("quantization_config", "ignore")),
        ("hf_quant_config.json", ("quantization", "exclude_modules")),
    ):
        config = json.loads((out / file).read_text())
        config[keys[0]][keys[1]] = exempt
        (out / file).write_text(json.dumps(config, indent=4) + "\n")
