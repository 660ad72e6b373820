"""What of a model's attention, and of the backend that was asked for, decides which KV caches vLLM can keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qforge.config.job import Job
from qforge.config.kv_cache import HEAD, PLAIN

LATENT = "latent"  # one compressed vector for all heads (MLA)
IMAGES_WHOLE = "images whole"  # tokens of an image see all of it, not only what came before
# where vLLM builds it so (0.32 transformers_utils/model_arch_config_convertor.py:377); Gemma 4 says it itself (:768)
SEE_IMAGES_WHOLE = ("bagel", "gemma3", "molmo2", "moondream3", "paligemma")
PER_HEAD = "FLASH_ATTN"  # alone takes a scale per head (0.32 v1/attention/backend.py:183, backends/flash_attn.py:410)
NEVER_FP8 = "FLEX_ATTENTION"  # 0.32 v1/attention/backends/flex_attention.py:96
DTYPE = "bfloat16"  # in which a server computes (runtimes/vllm.py), unless its arguments say otherwise


def traits(job: Job, config: Mapping[str, Any], text: Mapping[str, Any]) -> set[str]:
    """Those above that the model has as it will be served. `config`: config.json; `text`: the language model's part."""
    found = {LATENT} if text.get("kv_lora_rank") else set()
    asked = "text_config" in config and text.get("use_bidirectional_attention") == "vision"
    if (asked or config.get("model_type") in SEE_IMAGES_WHOLE) and not job.engine_args.get("language_model_only"):
        found.add(IMAGES_WHOLE)
    return found


def refuse_backend(job: Job) -> None:
    """Raises ValueError for a backend among vLLM's arguments that cannot read the cache, which ends at its start there."""
    args, kv = job.engine_args, job.kv
    inner = args.get("attention_config")
    chosen = str(args.get("attention_backend") or (inner.get("backend") if isinstance(inner, Mapping) else None) or "")
    named = f"kv={kv.name} runtime.args.attention_backend={chosen}"
    if chosen and kv.strategy == HEAD and chosen != PER_HEAD:
        raise ValueError(
            f"{named}: one scale per head is read by {PER_HEAD} alone; leave it out, or use kv.strategy=tensor"
        )
    if chosen == NEVER_FP8 and not kv.plain:
        raise ValueError(f"{named}: it keeps its cache in 16 bits alone; leave it out, or use kv=auto")


def refuse_other_bits(job: Job) -> None:
    """Raises ValueError for a cache in 16 bits that are not those of the model (0.33 config/vllm.py:1506)."""
    dtype = str(job.engine_args.get("dtype", DTYPE))
    if job.kv.dtype in PLAIN[1:] and dtype in PLAIN[1:] and job.kv.dtype != dtype:
        raise ValueError(
            f"kv.dtype={job.kv.dtype}: the model is served in {dtype}, and vLLM refuses a cache in other 16 bits; use kv=auto"
        )
