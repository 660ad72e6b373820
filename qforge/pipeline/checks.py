"""What can be refused from the job alone. Checks that need the model's shapes live in plan.py."""

from __future__ import annotations

import math
from typing import Any

import yaml

from qforge.config import calibration
from qforge.config.calibration import calib_files
from qforge.config.evaluation import ANSWER, SHORTEST, eval_files
from qforge.config.job import ON_REQUEST, ROOT, STAGES, Criterion, Engine, Job, Method, Vendor, repository_path
from qforge.evaluation import tasks
from qforge.judge.metrics import METRICS
from qforge.methods import rounding
from qforge.plan.exemptions import waits

RUNTIMES = ROOT / "conf" / "runtime"
MAX_LOGPROBS = 20  # vLLM's own default (config/model.py)


def check(job: Job) -> None:
    """Refuse what no model could make right. Raises ValueError: what is wrong, the key, the fix."""
    stages = [*STAGES, *ON_REQUEST]
    unknown = [s for s in job.stages if s not in stages]
    if unknown:
        raise ValueError(f"stages: {unknown[0]!r} is not a stage; choose from {', '.join(stages)}")
    if job.group_size is not None and job.group_size != -1 and job.group_size < 16:
        raise ValueError(
            f"group_size={job.group_size}: no kernel supports it; use 16 (nvfp4), 32, 64, 128 or -1 (one scale per channel)"
        )
    if [job.runtime.env, job.runtime.python, job.runtime.container].count(None) != 2:
        raise ValueError(
            f"runtime={job.runtime.name}: give either runtime.env (a managed environment), runtime.python (a path) or "
            "runtime.container (an image)"
        )
    if job.hw.vendor not in job.runtime.vendors:
        raise ValueError(
            f"runtime={job.runtime.name} is for {', '.join(v.value for v in job.runtime.vendors)}, hw={job.hw.name} is "
            f"{job.hw.vendor.value}; leave runtime out, or use runtime={', '.join(_runtimes(job.hw.vendor))}"
        )
    if job.serve.port is not None and not 0 < job.serve.port < 65536:
        raise ValueError(f"serve.port={job.serve.port}: ports go from 1 to 65535; leave it out for a free one")
    for task in job.eval.tasks:
        if task.endswith(".yaml") and not repository_path(task).is_file():
            raise ValueError(f"eval.tasks: {task}: no such file; give a task of lm-eval by its name, or a file")
    for file in tasks.data_files(job.eval):
        if not file.is_file():
            raise ValueError(f"eval.tasks: {file}: no such file; give the folder that has it as eval.task_data")
    _check_symmetry(job.method)
    _check_lengths(job)
    _check_sensitivity(job)
    for name, criterion in job.gate.criteria.items():
        _check_criterion(job, name, criterion)
    for key, path in (calib_files(job.calib) | eval_files(job.eval)).items():
        if not repository_path(path).is_file():
            raise ValueError(f"{key}={path}: no such file; give one that is there")


def _runtimes(vendor: Vendor) -> list[str]:
    """The files of conf/runtime for this vendor's hardware, those for few vendors first."""
    vendors = {file.stem: yaml.safe_load(file.read_text())["vendors"] for file in RUNTIMES.glob("*.yaml")}
    fitting = [name for name in vendors if vendor.value in vendors[name]]
    return sorted(fitting, key=lambda name: (len(vendors[name]), name))


def _check_symmetry(method: Method) -> None:
    """Plans know the layout by method.format; whether there are zero points is said among the library's options too."""
    symmetric = _symmetric(method.args)
    layout = method.format.removesuffix("_asym") + ("" if symmetric else "_asym")
    if (
        symmetric is not None
        and method.format in ("int4", "int4_asym", "gptq", "gptq_asym")
        and layout != method.format
    ):
        raise ValueError(
            f"method={method.name}: its args say {'symmetric' if symmetric else 'asymmetric'}, and "
            f"method.format={method.format} is not; set method.format={layout} too"
        )


def _symmetric(options: dict[str, Any]) -> bool | None:
    for key, value in options.items():
        symmetric = value if key in ("sym", "symmetric") else _symmetric(value) if isinstance(value, dict) else None
        if symmetric is not None:
            return bool(symmetric)
    return None


def _check_lengths(job: Job) -> None:
    at_least = {
        "calib.sequences": (job.calib.sequences, 1), "calib.length": (job.calib.length, 2),
        "calib.expert_floor": (job.calib.expert_floor, 0),
        "eval.windows": (job.eval.windows, 1), "eval.context": (job.eval.context, 2),
        "eval.divergence.windows": (job.eval.divergence.windows, 0), "eval.divergence.top_k": (job.eval.divergence.top_k, 1),
        "eval.limit": (job.eval.limit or 1, 1), "eval.concurrency": (job.eval.concurrency, 1),
        "eval.long_context.per_cell": (job.eval.long_context.per_cell, 1),
        "eval.stability.repeats": (job.eval.stability.repeats, 1), "eval.stability.tokens": (job.eval.stability.tokens, 1),
        "bench.requests": (job.bench.requests, 1), "bench.repeats": (job.bench.repeats, 1),
        "bench.input_len": (job.bench.input_len, 1), "bench.output_len": (job.bench.output_len, 2),
        "sensitivity.windows": (job.sensitivity.windows, 1), "sensitivity.length": (job.sensitivity.length, 2),
        "rescore": (job.rescore, 0), "eval.budget": (job.eval.budget, 1),
        "bench.concurrency": (min(job.bench.concurrency, default=0), 1),
    }  # fmt: skip
    for key, (value, least) in at_least.items():
        if value < least:
            raise ValueError(f"{key}={value}: at least {least} is needed")
    if not job.eval.lengths or any(not 2 <= part * job.eval.context <= job.eval.context for part in job.eval.lengths):
        raise ValueError(
            f"eval.lengths={job.eval.lengths}: parts of eval.context={job.eval.context} are needed, each of 2 tokens or "
            "more and at most 1.0; for windows of one length use [1.0]"
        )
    calibration.check(job.calib)
    _check_devices(job)
    _check_engine(job)
    limit = job.runtime.args.get("max_model_len")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"runtime.args.max_model_len={limit}: give a number of tokens")
    most = job.runtime.args.get("max_logprobs", MAX_LOGPROBS)
    if job.runtime.engine is Engine.vllm and job.eval.divergence.windows and 0 <= most < job.eval.divergence.top_k:
        raise ValueError(
            f"eval.divergence.top_k={job.eval.divergence.top_k}: the server gives at most {most}; ask for fewer, or start "
            f"it with +runtime.args.max_logprobs={job.eval.divergence.top_k}"
        )
    if limit is not None and limit <= job.eval.context:
        raise ValueError(
            f"eval.context={job.eval.context} needs runtime.args.max_model_len > {job.eval.context} (one token is "
            f"generated), which is {limit}; raise it or shorten eval.context"
        )
    _check_long_context(job, limit)
    tokens = job.bench.input_len + job.bench.output_len
    if limit is not None and limit < tokens:
        raise ValueError(
            f"bench.input_len + bench.output_len = {tokens} exceeds runtime.args.max_model_len={limit}; raise it or "
            "shorten them"
        )


def _check_sensitivity(job: Job) -> None:
    settings, waiting = job.sensitivity, [f"exempt.{name}" for name, rule in job.exempt.items() if waits(rule)]
    if waiting and settings.budget_gib is None:
        raise ValueError(
            f"{waiting[0]}: say how much the exemptions may add to the quantized checkpoint, in GiB: "
            "sensitivity.budget_gib=0.5"
        )
    if settings.budget_gib is not None and not 0 < settings.budget_gib < math.inf:
        raise ValueError(f"sensitivity.budget_gib={settings.budget_gib}: use a size above 0, in GiB")
    if not waiting and "sensitivity" not in job.stages:
        return
    if job.method.function is None:
        raise ValueError(
            f"{waiting[0] if waiting else 'stages=[sensitivity]'} method={job.method.name}: quantizes nothing; use a "
            "method that does"
        )
    if job.model.random:
        raise ValueError(
            f"{waiting[0] if waiting else 'stages=[sensitivity]'} model={job.model.name}: random weights have no quality "
            "to measure; use a model with real weights"
        )
    if settings.text not in job.eval.texts:
        raise ValueError(
            f"sensitivity.text={settings.text}: choose from eval.texts: {', '.join(job.eval.texts) or 'none'}"
        )
    rounding.recipe(job.method)


def _check_long_context(job: Job, limit: int | None) -> None:
    settings = job.eval.long_context
    if any(not 0 <= depth <= 1 for depth in settings.depths):
        raise ValueError(f"eval.long_context.depths={settings.depths}: give parts of the text, from 0.0 to 1.0")
    longest = max(settings.lengths, default=0)
    if limit is not None and longest + ANSWER > limit:
        raise ValueError(
            f"eval.long_context.lengths: {longest} tokens and an answer of {ANSWER} need runtime.args.max_model_len="
            f"{longest + ANSWER}, which is {limit}; raise it up to the model's limit, or leave that length out"
        )
    if settings.lengths and min(settings.lengths) < SHORTEST:
        raise ValueError(
            f"eval.long_context.lengths={settings.lengths}: {SHORTEST} tokens are the minimum for a prompt with a needle"
        )
    if job.eval.kv_dtypes and (job.runtime.engine is not Engine.vllm or not settings.lengths):
        raise ValueError(
            f"eval.kv_dtypes={job.eval.kv_dtypes}: they are compared on long context through vLLM; give "
            "eval.long_context.lengths and a runtime that serves (leave runtime out), or leave them out"
        )
    if job.eval.stability.prompts and job.eval.stability.load_seconds and not job.eval.texts:
        raise ValueError(
            "eval.stability.load_seconds: the load is generated from eval.texts; give a text, or 0 seconds"
        )
    if job.eval.stability.prompts and job.eval.stability.tokens >= job.eval.context:
        raise ValueError(
            f"eval.stability.tokens={job.eval.stability.tokens}: the answers must be shorter than eval.context="
            f"{job.eval.context}; ask for fewer"
        )


def _check_devices(job: Job) -> None:
    devices, sequences = job.calib.devices, job.calib.sequences
    if not 1 <= devices <= sequences:
        raise ValueError(f"calib.devices={devices}: use 1 up to calib.sequences={sequences}, which they share")
    alone = job.method.calibrated and not str(job.method.function).startswith("qforge.methods.llmcompressor")
    if devices > 1 and alone:
        raise ValueError(
            f"calib.devices={devices} method={job.method.name}: only llm-compressor's methods share their texts among GPUs; "
            "use calib.devices=1, or method=gptq"
        )


def _check_engine(job: Job) -> None:
    """vLLM's options that a plan computes with, before it does."""
    args = {**job.hw.args, **job.runtime.args}
    devices, part, cache = (args.get(k) for k in ("tensor_parallel_size", "gpu_memory_utilization", "kv_cache_dtype"))
    if devices is not None and (not isinstance(devices, int) or devices < 1):
        raise ValueError(f"runtime.args.tensor_parallel_size={devices}: use a number of devices, 1 or more")
    if part is not None and (not isinstance(part, int | float) or not 0 < part <= 1):
        raise ValueError(f"runtime.args.gpu_memory_utilization={part}: use a part of the memory, above 0 and up to 1")
    if cache in ("bf16", "fp16", "half"):
        raise ValueError(
            f"runtime.args.kv_cache_dtype={cache}: vLLM does not know this dtype; use auto, bfloat16, float16 or fp8"
        )


def _check_criterion(job: Job, name: str, criterion: Criterion) -> None:
    if (criterion.at_most is None) == (criterion.at_least is None):
        raise ValueError(f"gate.criteria.{name}: give exactly one of at_most and at_least")
    if criterion.metric not in METRICS:
        raise ValueError(f"gate.criteria.{name}.metric={criterion.metric}: unknown; choose from {', '.join(METRICS)}")
    if criterion.concurrency is not None and criterion.concurrency not in job.bench.concurrency:
        raise ValueError(
            f"gate.criteria.{name}.concurrency={criterion.concurrency} is not measured: "
            f"bench.concurrency={job.bench.concurrency}; add it there or judge another"
        )
