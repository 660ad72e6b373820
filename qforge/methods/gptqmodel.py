"""GPTQModel, AutoGPTQ's living successor. The method's `args` are options of its QuantizeConfig."""

from __future__ import annotations

import os
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch
from gptqmodel import GPTQModel, QuantizeConfig

from qforge.config.job import Job
from qforge.json_files import read_json
from qforge.models.checkpoint import write_config


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a checkpoint of the GPTQ or AWQ format in `out`; returns the options as they were run."""
    if (os.cpu_count() or 1) < 3:  # its pool would have one worker, where its loader wants two (7.7.0)
        os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
    rules: dict[str, dict[str, Any]] = {f"-:^{re.escape(name)}$": {} for name in exempt}  # -: leaves alone
    options = {**job.method.args, "group_size": job.group_size, "dynamic": rules}
    config = QuantizeConfig(**options, offload_to_disk=False)
    with chdir(out.parent):  # it writes logs/ where it is
        model = GPTQModel.load(str(source), config, dtype=torch.bfloat16, trust_remote_code=job.model.trust_remote_code)
        model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in sequences or []], batch_size=1)
        for module in model.model.modules() if config.quant_method == "awq" else ():
            if isinstance(scales := getattr(module, "scales", None), torch.Tensor):
                module.scales = scales.half()  # as AutoAWQ's layout has them
        model.save(str(out))
    quantization = read_json(out / "config.json")["quantization_config"]
    if quantization["quant_method"] == "awq":
        quantization["modules_to_not_convert"] = exempt  # where AWQ's readers look, not among the rules
    write_config(source, out, quantization)
    return options
