"""What can be refused from the job alone. Checks that need the model's shapes live in plan/."""

from __future__ import annotations

import re
from typing import Any

import yaml

from qforge.config import bounds, calibration, given_files
from qforge.config.calibration import calib_files
from qforge.config.evaluation import eval_files
from qforge.config.job import Criterion, Job, Sensitivity, Vendor
from qforge.config.method import Method
from qforge.config.places import given_path, option_files
from qforge.evaluation import questions, tasks, trace
from qforge.judge.metrics import METRICS
from qforge.methods import lookup, rounding
from qforge.models.formats import FORMATS, MIXED
from qforge.pipeline import asking, references, speech_checks
from qforge.plan import limits, online
from qforge.plan.exemptions import waits

# Of vLLM's options, those that qforge sets: the key to use instead, or why there is none
OWN = {
    "model": "the checkpoint of the run is served; to serve another, use artifact=PATH",
    "served_model_name": "qforge sets the name; leave it out",
    "host": "the server listens on this machine only; leave it out",
    "port": "use serve.port",
    "api_key": "use serve.api_key",
    "trust_remote_code": "use model.trust_remote_code",
    "kv_cache_dtype": "use kv=auto, fp8 or fp8_calibrated; kv.dtype takes vLLM's others",
    "quantization": "vLLM reads it from the checkpoint; to have it quantize bf16 weights at load, use method=online_fp8",
}


def check(job: Job) -> None:
    """Refuse what no model could make right. Raises ValueError: what is wrong, the key, the fix."""
    bounds.check(job)
    references.check(job)
    _check_runtime(job)
    _check_method(job)
    calibration.check(job.calib)
    _check_devices(job)
    _check_engine(job)
    _check_evaluation(job)
    _check_sensitivity(job)
    _check_gates(job)
    _check_files(job)
    speech_checks.check(job)
    limits.refuse(job)
    online.refuse(job)


def _check_runtime(job: Job) -> None:
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


def _check_method(job: Job) -> None:
    method = job.method
    if method.format not in FORMATS:
        raise ValueError(f"method.format={method.format}: unknown; choose from {', '.join(FORMATS)}")
    _check_function(method)
    if job.group_size is not None and job.group_size != -1 and job.group_size < 16:
        raise ValueError(
            f"group_size={job.group_size}: no kernel supports it; use 16 (nvfp4), 32, 64, 128 or -1 (one scale per channel)"
        )
    _check_symmetry(method)
    _check_groups(method)


def _runtimes(vendor: Vendor) -> list[str]:
    """The files of conf/runtime for this vendor's hardware, those for few vendors first."""
    vendors = {name: yaml.safe_load(file.read_text())["vendors"] for name, file in option_files("runtime").items()}
    fitting = [name for name in vendors if vendor.value in vendors[name]]
    return sorted(fitting, key=lambda name: (len(vendors[name]), name))


def _check_function(method: Method) -> None:
    """Of qforge's own modules; another may be one of its environment alone, which answers.py asks."""
    function = method.function
    if function and (":" not in function or function.startswith("qforge.")) and (fault := lookup.fault(function)):
        raise ValueError(fault)


def _check_groups(method: Method) -> None:
    """A recipe of llm-compressor may give parts of the model formats of their own; a plan has one."""
    for modifier, options in method.args.items():
        groups = options.get("config_groups") if isinstance(options, dict) else None
        if isinstance(groups, dict) and len(groups) > 1:
            raise ValueError(
                f"method.args.{modifier}.config_groups: {', '.join(groups)}: a method makes one format; give one group, and "
                "leave the rest in bf16 with rules (conf/exempt), or use method=mixed, which has several"
            )
    if method.formats and method.format != MIXED:
        raise ValueError(f"method.formats method={method.name}: only method=mixed reads it; use that, or leave it out")
    if method.candidates and method.format != MIXED:
        raise ValueError(
            f"method.candidates method={method.name}: only method=budget reads them; use that, or leave them out"
        )
    if method.bits is not None and not method.candidates:
        raise ValueError(
            f"method.bits={method.bits} method={method.name}: only method=budget with its candidates has a size; use that, or "
            "leave it out"
        )


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
            f"method={method.name}: its args say {'symmetric' if symmetric else 'asymmetric'}, and method.format="
            f"{method.format} is not; set method.format={layout} too"
        )


def _symmetric(options: dict[str, Any]) -> bool | None:
    for key, value in options.items():
        symmetric = value if key in ("sym", "symmetric") else _symmetric(value) if isinstance(value, dict) else None
        if symmetric is not None:
            return bool(symmetric)
    return None


def _check_evaluation(job: Job) -> None:
    settings = job.eval
    if any(part * settings.context < 2 for part in settings.lengths):
        raise ValueError(
            f"eval.lengths={settings.lengths}: each must be a part of eval.context={settings.context} and give 2 tokens "
            "or more; for windows of one length use [1.0]"
        )
    url = settings.judge.base_url
    if url is not None and not re.match(r"https?://[^/]", url):
        raise ValueError(
            f"eval.judge.base_url={url}: is not an address of an OpenAI-compatible API; use http://HOST/v1 or https://HOST/v1"
        )


def _check_sensitivity(job: Job) -> None:
    settings, waiting = job.sensitivity, [f"exempt.{name}" for name, rule in job.exempt.items() if waits(rule)]
    measured = waiting or "sensitivity" in job.stages
    if settings.text not in job.eval.texts and (measured or settings.text != Sensitivity.text):
        raise ValueError(
            f"sensitivity.text={settings.text}: choose from eval.texts: {', '.join(job.eval.texts) or 'none'}"
        )
    if waiting and settings.budget_gib is None:
        raise ValueError(
            f"{waiting[0]}: say how much the exemptions may add to the quantized checkpoint, in GiB: "
            "sensitivity.budget_gib=0.5"
        )
    if not measured:
        return
    if job.method.function is None:
        raise ValueError(
            f"{waiting[0] if waiting else 'stages=[sensitivity]'} method={job.method.name}: quantizes nothing; use a "
            "method that does"
        )
    if job.model.speed_only:
        raise ValueError(
            f"{waiting[0] if waiting else 'stages=[sensitivity]'} model={job.model.name}: random weights have no quality "
            "to measure; use a model with real weights"
        )
    rounding.recipe(job.method)


def _check_devices(job: Job) -> None:
    devices, sequences = job.calib.devices, job.calib.sequences
    if devices > sequences:
        raise ValueError(f"calib.devices={devices}: use 1 up to calib.sequences={sequences}, which they share")
    alone = job.method.calibrated and not str(job.method.function).startswith("qforge.methods.llmcompressor")
    if devices > 1 and alone:
        raise ValueError(
            f"calib.devices={devices} method={job.method.name}: only llm-compressor's methods share their texts among GPUs; "
            "use calib.devices=1, or method=gptq"
        )


def _check_engine(job: Job) -> None:
    """The engine's options that a plan computes with, and those that are not the user's to set. The rest is checked by the
    engine's own parser: pipeline/answers.py."""
    for group, args in (("hw", job.hw.args), ("model", job.model.args), ("runtime", job.runtime.args)):
        if own := next((name for name in args if name.replace("-", "_") in OWN), None):
            raise ValueError(f"{group}.args.{own}: {OWN[own.replace('-', '_')]}")
    args = job.engine_args
    limit, devices, part = (args.get(k) for k in ("max_model_len", "tensor_parallel_size", "gpu_memory_utilization"))
    numbers = ("max_model_len", "tensor_parallel_size", "gpu_memory_utilization")
    for name in numbers:
        if name in args and (args[name] is None or isinstance(args[name], bool)):
            raise ValueError(f"runtime.args.{name}={args[name]}: is not a number; give one, or leave it out")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"runtime.args.max_model_len={limit}: use a number of tokens, 1 or more")
    if devices is not None and (not isinstance(devices, int) or devices < 1):
        raise ValueError(f"runtime.args.tensor_parallel_size={devices}: use a number of devices, 1 or more")
    if part is not None and (not isinstance(part, int | float) or not 0 < part <= 1):
        raise ValueError(f"runtime.args.gpu_memory_utilization={part}: use a part of the memory, above 0 and up to 1")
    for name in ("max_num_batched_tokens", "max_num_seqs", "max_logprobs"):
        if name in args and not isinstance(args[name], int):
            raise ValueError(f"runtime.args.{name}={args[name]}: use a whole number")


def _check_gates(job: Job) -> None:
    for name, criterion in job.gate.criteria.items():
        _check_criterion(f"gate.criteria.{name}", criterion)
        if criterion.concurrency is not None and criterion.concurrency not in job.bench.concurrency:
            raise ValueError(
                f"gate.criteria.{name}.concurrency={criterion.concurrency} is not measured: "
                f"bench.concurrency={job.bench.concurrency}; add it there or judge another"
            )
    for goal, gate in job.goals.items():
        for name, criterion in gate.criteria.items():
            _check_criterion(f"goals.{goal}.criteria.{name}", criterion)
        if all(METRICS[criterion.metric].quality for criterion in gate.criteria.values()):
            raise ValueError(
                f"goals.{goal}: asks for quality alone, as being sound does; add what else it asks, or leave it out"
            )


def _check_criterion(key: str, criterion: Criterion) -> None:
    if (criterion.at_most is None) == (criterion.at_least is None):
        raise ValueError(f"{key}: give exactly one of at_most and at_least")
    if criterion.metric not in METRICS:
        raise ValueError(f"{key}.metric={criterion.metric}: unknown; choose from {', '.join(METRICS)}")


def _check_files(job: Job) -> None:
    for task in job.eval.tasks:
        if task.endswith((tasks.YAML, questions.ENDING)) and not given_path(task).is_file():
            raise ValueError(f"eval.tasks: {task}: no such file; give a task of lm-eval by its name, or a file")
    asking.check(job)
    for file in tasks.data_files(job.eval):
        if not file.is_file():
            raise ValueError(f"eval.tasks: {file}: no such file; give the folder that has it as eval.task_data")
    trace.check(job.bench)
    for key, path in (calib_files(job.calib) | eval_files(job.eval)).items():
        given_files.refuse(path, key)
