"""NVIDIA ModelOpt: NVFP4. The method's `args`: `config`, the name of one of its quantization configs, and what of it to
replace: its `algorithm`, and entries of its `block_sizes`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.quantization.nn.modules import tensor_quantizer
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from transformers import AutoModelForCausalLM

from qforge.config.job import Job
from qforge.methods.routing import Routing

LARGEST = 6.0  # in FP4


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a ModelOpt checkpoint in `out`; returns the config as it was run.

    Exempted modules are switched off last, by their exact names, after ModelOpt's own rules.
    """
    options = dict(job.method.args)
    config = deepcopy(getattr(mtq, options["config"]))
    config["algorithm"] = options.get("algorithm", config["algorithm"])
    # the group is 16, unless its quality alone is asked for
    sizes = {**options.get("block_sizes", {}), -1: job.group_size}
    for entry in config["quant_cfg"]:
        if "block_sizes" in (entry.get("cfg") or {}):
            entry["cfg"]["block_sizes"].update(sizes)
    if job.kv.calibrated:
        config["quant_cfg"] += mtq.FP8_KV_CFG["quant_cfg"]
    for pattern in dict.fromkeys(quantizers(exempt)):
        config["quant_cfg"].append({"quantizer_name": pattern, "enable": False})
    if not torch.accelerator.is_available():
        tensor_quantizer.static_blockwise_fp4_fake_quant = to_fp4_and_back
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
    return {**options, "disabled": exempt, "experts": routing.counts()}


def to_fp4_and_back(
    blocks: torch.Tensor,
    amax: torch.Tensor,
    global_amax: torch.Tensor,
    _: bool,
    most: float,
    dtype: torch.dtype,
    *__: Any,
) -> torch.Tensor:
    """What ModelOpt's kernel computes in Triton, which a CPU does not have: `blocks`, [n, 16], with a scale each.

    The scales are rounded as they are exported; `most` is the largest that they come to.
    """
    unit = global_amax.float() / (LARGEST * most)
    scale = NVFP4QTensor._cast_per_block_scale_to_fp8(amax.float().view(-1, 1) / LARGEST / unit).float() * unit
    values = blocks.float() / scale
    size = values.abs()
    step = 0.5 * (1 + (size >= 2).float()) * (1 + (size >= 4).float())  # between neighbours in FP4
    return ((values / step).round() * step).clamp(-LARGEST, LARGEST).mul(scale).to(dtype)


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
