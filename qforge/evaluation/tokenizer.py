"""The tokenizer in a checkpoint's folder, for every stage: with the code that the folder brings along where that is trusted."""

from __future__ import annotations

from typing import Any

from qforge.config.job import Job
from qforge.envs.lifetime import importing


def load(folder: str, job: Job) -> Any:
    """As transformers reads it; model.trust_remote_code decides whether its own Python is run."""
    with importing():
        from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=job.model.trust_remote_code)
