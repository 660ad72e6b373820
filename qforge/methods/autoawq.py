"""AutoAWQ 0.2.9, archived upstream: to compare with what was made then. llm-compressor has AWQ today (llmcompressor.py).

The method's `args` are options of its `quantize`. Its environment has transformers 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from awq import AutoAWQForCausalLM
from awq.quantize.quantizer import AwqQuantizer
from awq.utils.module import get_op_name

from qforge.config.job import Job
from qforge.models.checkpoint import write_config


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a checkpoint of AWQ's "gemm" layout in `out`; returns the options as they were run.

    It joins the sequences and cuts them anew at the length of the longest.
    """
    tokens = sequences or []
    options = dict(job.method.args)
    options["quant_config"] = {**options["quant_config"], "q_group_size": job.group_size}
    model = AutoAWQForCausalLM.from_pretrained(
        str(source), torch_dtype=torch.bfloat16, trust_remote_code=job.model.trust_remote_code
    )
    size = {"max_calib_samples": len(tokens), "max_calib_seq_len": max(map(len, tokens))}
    model.quantize(None, calib_data=tokens, quantizer_cls=Sparing, exempt=set(exempt), **options, **size)
    model.save_quantized(str(out))
    quantization = {**model.quant_config.to_transformers_dict(), "modules_to_not_convert": exempt}
    write_config(source, out, quantization)
    return options


class Sparing(AwqQuantizer):  # type: ignore[misc]
    """Its own list of exemptions has names within a block, the same for every block; this one knows modules."""

    def __init__(self, *arguments: Any, exempt: set[str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.kept = {module for name, module in self.model.named_modules() if name in exempt}

    def _search_best_scale(self, module: Any, prev_op: Any, layers: list[Any], inp: torch.Tensor, **more: Any) -> Any:
        if not self.kept.issuperset(layers):
            return super()._search_best_scale(module, prev_op, layers, inp, **more)
        names = tuple(get_op_name(module, layer) for layer in layers)
        return get_op_name(module, prev_op), names, torch.ones(inp.shape[-1], dtype=inp.dtype)

    def _compute_best_scale(self, x: Any, w: Any, means: Any, module: torch.nn.Module, *more: Any) -> torch.Tensor:
        """It keeps the weights by .cpu() while it tries scales; on a CPU that is no copy, and the first scale stays in them."""
        state = module.state_dict
        module.state_dict = lambda: {name: value.clone() for name, value in state().items()}
        try:
            scale: torch.Tensor = super()._compute_best_scale(x, w, means, module, *more)
        finally:
            del module.state_dict
        return scale

    def _search_best_clip(self, layer: Any, named_linears: dict[str, Any], input_feat: Any) -> Any:
        return super()._search_best_clip(layer, self._packed(named_linears), input_feat)

    def _apply_quant(self, module: Any, named_linears: dict[str, Any]) -> None:
        super()._apply_quant(module, self._packed(named_linears))

    def _packed(self, linears: dict[str, Any]) -> dict[str, Any]:
        return {name: linear for name, linear in linears.items() if linear not in self.kept}
