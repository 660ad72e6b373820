"""What environments say of the job before anything is fetched: vLLM of its options, lm-eval of its tasks, Python of the
method's function. Each is asked once for the same values and versions, and then known from the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from qforge.config.job import Engine, Job
from qforge.console import print_waiting, progress_line
from qforge.envs import interpreters
from qforge.envs.ask import ask
from qforge.envs.process import Environment
from qforge.evaluation import tasks
from qforge.pipeline.run import EVAL_ENV, Run
from qforge.runtimes import vllm
from qforge.store.results import code, result

OPTIONS = "runtime.args"
# What every vLLM takes, with the types that checks.py has seen to: for these alone no environment is asked
NUMBERS = ("max_model_len", "tensor_parallel_size", "gpu_memory_utilization")
PLAIN = (
    ("enforce_eager", "True"),
    ("enforce_eager", "False"),
    ("kv_cache_dtype", "auto"),
    ("enable_auto_tool_choice", "True"),
    *(("tool_call_parser", name) for name in ("hermes", "llama3_json", "openai", "deepseek_v3", "kimi_k2")),
    ("reasoning_parser", "qwen3"),
)


@dataclass(frozen=True)
class Question:
    """Values of the job that only an environment can judge."""

    key: str  # of the job
    values: list[Any]
    module: str  # that answers there
    where: str  # for people
    made: bool  # whether the environment is there already
    identity: Callable[[], str]
    environment: Callable[[], Environment]  # made where it is not


def check(run: Run, make: bool, runtime: bool = True) -> list[str]:
    """Raises ValueError for what an environment refuses. `make`: make environments for it; else what could not be asked
    comes back, for the plan. `runtime`: whether the runtime is of this machine."""
    unasked = []
    for question in (each for each in questions(run.job) if runtime or each.key != OPTIONS):
        if not question.made and not make:
            unasked.append(
                f"{question.key} not checked yet: {question.where} does not exist yet; the run makes it and checks first"
            )
            continue
        answer = _answer(run, question)
        if faults := answer.get("faults"):
            raise ValueError(faults[0])
        if fault := answer.get("fault"):
            unasked.append(f"{question.key} not checked: {question.where} did not answer ({fault})")
    return unasked


def questions(job: Job) -> Iterator[Question]:
    """What is to be asked for the stages of this job."""
    serves = job.serve.keep or {"serve", "evaluate", "bench"} & set(job.stages)
    if serves and job.runtime.engine is Engine.vllm and (options := _options(job)):
        yield Question(
            OPTIONS, options, "qforge.runtimes.options", f"runtime={job.runtime.name}",
            interpreters.runtime_made(job), partial(interpreters.runtime_identity, job), partial(interpreters.of_runtime, job),
        )  # fmt: skip
    if "evaluate" in job.stages and (names := tasks.by_name(job.eval)):
        yield _in_env("eval.tasks", names, "qforge.evaluation.task_names", EVAL_ENV, job)
    function, env = job.method.function, job.method.env
    if function and env and "quantize" in job.stages and not job.artifact and not function.startswith("qforge."):
        yield _in_env("method.function", [function], "qforge.methods.lookup", env, job)


def _in_env(key: str, values: list[Any], module: str, env: str, job: Job) -> Question:
    made, identity = interpreters.made(env, job), partial(interpreters.identity, env, job)
    return Question(
        key, values, module, f"the environment {env}", made, identity, partial(interpreters.named, env, job)
    )


def _options(job: Job) -> list[Any]:
    """[key, flags] of the options that the server would get from the user or the hardware."""
    keys = {
        "kv_cache_dtype": "kv.dtype", "quantization": "method.online", **{name: f"hw.args.{name}" for name in job.hw.args},
        **{name: f"model.args.{name}" for name in job.model.args},
        **{name: f"runtime.args.{name}" for name in job.runtime.args},
    }  # fmt: skip
    unsure = {n: v for n, v in job.engine_args.items() if n not in NUMBERS and (n, str(v)) not in PLAIN}
    flags = [[keys[name], vllm.flags_of(name, value)] for name, value in unsure.items()]
    flags += [["eval.kv_dtypes", vllm.flags_of("kv_cache_dtype", dtype)] for dtype in job.eval.kv_dtypes]
    return [entry for entry in flags if entry[1]]


def _answer(run: Run, question: Question) -> dict[str, Any]:
    key = {"values": question.values, "env": question.identity(), "code": code(question.module)}
    if stored := run.store.find("answers", key):
        return result(stored)
    # made first where it is missing: that has a lock, a line and seconds of its own
    detail, environment = f"{question.key} by {question.where}", question.environment()

    def asked() -> dict[str, Any]:
        with progress_line("check", detail):
            return ask(environment, question.module, json.dumps(question.values))

    return run.store.answer("answers", key, asked, lambda: print_waiting(f"the check of {detail}"))
