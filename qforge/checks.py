"""What can be refused from the job alone. Checks that need the model's shapes live in plan.py."""

from __future__ import annotations

from qforge.comparisons import METRICS
from qforge.config import STAGES, Criterion, Job, repository_path


def check(job: Job) -> None:
    """Refuse what no model could make right. Raises ValueError: what is wrong, the key, the fix."""
    unknown = [s for s in job.stages if s not in STAGES]
    if unknown:
        raise ValueError(f"stages: {unknown[0]!r} is no stage; choose from {', '.join(STAGES)}")
    if job.group_size is not None and job.group_size != -1 and job.group_size < 16:
        raise ValueError(
            f"group_size={job.group_size}: no kernel serves it; use 16 (nvfp4), 32, 64, 128 or -1 (one scale per channel)"
        )
    if (job.runtime.env is None) == (job.runtime.python is None):
        raise ValueError(
            f"runtime={job.runtime.name}: give either runtime.env (a managed environment) or runtime.python (a path)"
        )
    if job.hw.vendor not in job.runtime.vendors:
        raise ValueError(
            f"runtime={job.runtime.name} is for {', '.join(v.value for v in job.runtime.vendors)}, hw={job.hw.name} is "
            f"{job.hw.vendor.value}; leave runtime out, or choose one that fits"
        )
    if job.serve.port is not None and not 0 < job.serve.port < 65536:
        raise ValueError(f"serve.port={job.serve.port}: ports go from 1 to 65535; leave it out for a free one")
    for task in job.eval.tasks:
        if task.endswith(".yaml") and not repository_path(task).is_file():
            raise ValueError(f"eval.tasks: {task}: no such file; give a task of lm-eval by its name, or a file")
    _check_lengths(job)
    for name, criterion in job.gate.criteria.items():
        _check_criterion(job, name, criterion)
    for source, texts in (("calib", job.calib.texts), ("eval", job.eval.texts)):
        for name, text in texts.items():
            if not repository_path(text.path).is_file():
                raise ValueError(f"{source}.texts.{name}.path={text.path}: no such file; give one that is there")


def _check_lengths(job: Job) -> None:
    at_least = {
        "calib.sequences": (job.calib.sequences, 1), "calib.length": (job.calib.length, 2),
        "eval.windows": (job.eval.windows, 1), "eval.context": (job.eval.context, 2),
        "eval.limit": (job.eval.limit or 1, 1), "eval.concurrency": (job.eval.concurrency, 1),
        "bench.requests": (job.bench.requests, 1), "bench.repeats": (job.bench.repeats, 1),
        "bench.input_len": (job.bench.input_len, 1), "bench.output_len": (job.bench.output_len, 2),
        "rescore": (job.rescore, 0), "eval.budget": (job.eval.budget, 1),
        "bench.concurrency": (min(job.bench.concurrency, default=0), 1),
    }  # fmt: skip
    for key, (value, least) in at_least.items():
        if value < least:
            raise ValueError(f"{key}={value}: at least {least} is needed")
    limit = job.runtime.args.get("max_model_len")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"runtime.args.max_model_len={limit}: give a number of tokens")
    if limit is not None and limit <= job.eval.context:
        raise ValueError(
            f"eval.context={job.eval.context} needs runtime.args.max_model_len > {job.eval.context} (one token is "
            f"generated), which is {limit}; raise it or shorten eval.context"
        )
    asked = job.bench.input_len + job.bench.output_len
    if limit is not None and limit < asked:
        raise ValueError(
            f"bench.input_len + bench.output_len = {asked} exceeds runtime.args.max_model_len={limit}; raise it or "
            "shorten them"
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
