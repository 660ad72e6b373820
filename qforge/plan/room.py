"""Whether the weights and one sequence find room where they are to be served, and what would give them some."""

from __future__ import annotations

from collections.abc import Sequence

from qforge.config.job import Engine, Job, Vendor
from qforge.plan.feasibility import SCORING
from qforge.plan.memory import Config, Memory


def too_long(job: Job, config: Config, memory: Memory) -> str | None:
    """Why vLLM does not start with this max_model_len, whatever the memory; none where it does."""
    limit = int(config.get("max_position_embeddings") or memory.context)
    allowed = job.runtime.engine is not Engine.vllm or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in job.runtime.environ
    if memory.context <= limit or allowed:
        return None
    return (
        f"runtime.args.max_model_len={memory.context}: {job.model.name} supports {limit} tokens; use "
        f"runtime.args.max_model_len={limit} or less"
    )


def refuse_memory(job: Job, config: Config, memory: Memory, legal: Sequence[int]) -> None:
    """Refuse what vLLM cannot load, or where one sequence of max_model_len tokens does not fit. `legal`: TP sizes."""
    if job.runtime.engine is not Engine.vllm or not SCORING & set(job.stages):
        return
    if memory.weights + memory.activations > memory.budget:
        whole, room = memory.weights * memory.devices, memory.budget - memory.activations
        enough = next((size for size in legal if whole / size < room), None)
        more = (
            f"+runtime.args.tensor_parallel_size={enough} or more, "
            if enough and job.hw.vendor is not Vendor.cpu
            else ""
        )
        raise ValueError(
            f"hw={job.hw.name}: the weights of {job.model.name} with method={job.method.name} take {memory.weights:.1f} GiB "
            f"on each of {memory.devices} devices, and vLLM may take {memory.budget:.1f}; use {more}a larger hw or a "
            "smaller method"
        )
    if not job.plan_only and (fault := too_long(job, config, memory)):
        raise ValueError(fault)
    if memory.largest_concurrency == 0:
        shorter = f"runtime.args.max_model_len={memory.largest_context} or less, " if memory.largest_context else ""
        larger = "devices (+runtime.args.tensor_parallel_size)"
        if job.hw.vendor is Vendor.cpu:
            larger = "GiB for it (runtime.environ.VLLM_CPU_KVCACHE_SPACE)"
        elif "kv_cache_memory_bytes" in job.engine_args:
            larger = "bytes for it (runtime.args.kv_cache_memory_bytes)"
        smaller = " or kv=fp8_calibrated, which may cost quality" if memory.kv_dtype == "auto" else ""
        raise ValueError(
            f"runtime.args.max_model_len={memory.context} hw={job.hw.name}: beside {memory.weights:.1f} GiB of weights the "
            f"KV cache of one sequence does not fit; use {shorter}more {larger}{smaller}"
        )
