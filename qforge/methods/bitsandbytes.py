"""BitsAndBytes through transformers: NF4. The method's `args` are options of BitsAndBytesConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from qforge.config.job import Job


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a BitsAndBytes checkpoint in `out`; returns the options as they were run."""
    options = {**job.method.args, "llm_int8_skip_modules": exempt}  # its name, for 4 bits too
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.bfloat16,
        trust_remote_code=job.model.trust_remote_code,
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, **options),
    )
    model.save_pretrained(out)
    return options
