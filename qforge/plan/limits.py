"""What single stages ask of the server: refused where the run comes to that stage, else a note of the plan."""

from __future__ import annotations

from collections.abc import Iterator

from qforge.config.evaluation import ANSWER, FAMILIES
from qforge.config.job import Engine, Job

MAX_LOGPROBS = 20  # vLLM's own default (config/model.py)


def refuse(job: Job) -> None:
    """Raises ValueError for the first limit that a stage of this run would exceed: the keys and the fix."""
    if fault := next((fault for stage, fault in _exceeded(job) if job.comes_to(stage)), None):
        raise ValueError(fault)


def notes(job: Job) -> list[str]:
    """The limits that stages would exceed which this run leaves out."""
    return [f"{stage} would be refused: {fault}" for stage, fault in _exceeded(job) if not job.comes_to(stage)]


def _exceeded(job: Job) -> Iterator[tuple[str, str]]:
    """The stage, and what is wrong for it."""
    limit, served = job.engine_args.get("max_model_len"), job.runtime.engine is Engine.vllm
    if served and job.serve.shared and "kv_cache_memory_bytes" not in job.engine_args:
        yield (
            "serve",
            "serve.shared=true: vLLM would take all that is free for its KV cache, and leave the others none; give "
            "+runtime.args.kv_cache_memory_bytes=BYTES, and a gpu_memory_utilization that is free when it starts",
        )
    yield from (("evaluate", fault) for fault in _settings(job, served))
    if job.bench.trace and job.runtime.timed:
        fault = f"bench.trace={job.bench.trace}: runtime.timed times prompts of one length; set bench.trace=null"
        yield "bench", fault
    if served and limit is not None:
        yield from (("evaluate", fault) for fault in _evaluation(job, limit))
        tokens = job.bench.input_len + job.bench.output_len
        if tokens > limit:
            yield (
                "bench",
                f"bench.input_len + bench.output_len = {tokens} exceeds runtime.args.max_model_len={limit}; raise it or "
                "shorten them",
            )


def _settings(job: Job, served: bool) -> Iterator[str]:
    settings, most = job.eval, job.engine_args.get("max_logprobs", MAX_LOGPROBS)
    if served and settings.divergence.windows and 0 <= most < settings.divergence.top_k:
        yield (
            f"eval.divergence.top_k={settings.divergence.top_k}: the server gives at most {most}; use fewer, or start it "
            f"with +runtime.args.max_logprobs={settings.divergence.top_k}"
        )
    if settings.kv_dtypes and (not served or not settings.long_context.lengths):
        yield (
            f"eval.kv_dtypes={settings.kv_dtypes}: cache formats are compared on long context by vLLM; give "
            "eval.long_context.lengths and a runtime that serves (leave runtime out), or leave eval.kv_dtypes out"
        )
    if settings.stability.prompts and settings.stability.tokens >= settings.context:
        yield (
            f"eval.stability.tokens={settings.stability.tokens}: the answers must be shorter than eval.context="
            f"{settings.context}; use fewer"
        )


def _evaluation(job: Job, limit: int) -> Iterator[str]:
    if limit <= job.eval.context:
        yield (
            f"eval.context={job.eval.context} needs runtime.args.max_model_len > {job.eval.context} (one token is "
            f"generated), which is {limit}; raise it or shorten eval.context"
        )
    lengths, families = job.eval.long_context.lengths, job.eval.long_context.families
    for family in families:
        if lengths and min(lengths) < FAMILIES[family].shortest:
            yield (
                f"eval.long_context.lengths: {min(lengths)} tokens are too few for eval.long_context.families="
                f"{family}, which takes {FAMILIES[family].shortest}; leave one of them out"
            )
    longest = max(lengths, default=0)
    answer = max([ANSWER, *(FAMILIES[family].answer for family in families)])
    if longest and longest + answer > limit:
        yield (
            f"eval.long_context.lengths: {longest} tokens and an answer of {answer} need runtime.args.max_model_len="
            f"{longest + answer}, which is {limit}; raise it up to the model's limit, or leave that length out"
        )
