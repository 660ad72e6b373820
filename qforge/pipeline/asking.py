"""What a job asks in chat, before anything is there: refused where no model could answer it."""

from __future__ import annotations

from pathlib import Path

from qforge.config.job import Engine, Job
from qforge.config.places import given_path
from qforge.evaluation import questions, sandbox, tool_calls
from qforge.evaluation.tasks import by_name
from qforge.json_files import read_json


def check(job: Job) -> None:
    """Refuse what the job alone shows. Raises ValueError: what is wrong, the key, the fix."""
    settings = job.eval
    if settings.chat and job.runtime.engine is Engine.transformers:
        raise ValueError(
            f"eval.chat=true runtime={job.runtime.name}: only a server has the chat API; use eval.chat=false"
        )
    if settings.chat is False and settings.system:
        raise ValueError("eval.system: is said in chat alone, and eval.chat=false; leave one of them out")
    if settings.seeds > 1 and settings.temperature == 0:
        raise ValueError(
            f"eval.seeds={settings.seeds} eval.temperature=0: the likeliest token is the same for every seed; use "
            "eval.temperature=0.7, or eval.seeds=1"
        )
    room = job.engine_args.get("max_model_len")
    if settings.answer_tokens and isinstance(room, int) and settings.answer_tokens >= room:
        raise ValueError(
            f"eval.answer_tokens={settings.answer_tokens}: the server has a context of {room} tokens, and the question needs "
            "some; use less, or a larger runtime.args.max_model_len"
        )
    if settings.own_answers.prompts and isinstance(room, int) and settings.own_answers.tokens >= room:
        raise ValueError(
            f"eval.own_answers.tokens={settings.own_answers.tokens}: the server has a context of {room} tokens, and the prompt "
            "needs some; use less, or a larger runtime.args.max_model_len"
        )
    _check_questions(job, [task for task in settings.tasks if task.endswith(questions.ENDING)])


def _check_questions(job: Job, tasks: list[str]) -> None:
    runs, named = job.comes_to("evaluate"), {name: name for name in by_name(job.eval)}
    silent = job.eval.chat is False or job.runtime.engine is Engine.transformers
    for task in tasks:
        kind = questions.read(given_path(task))[0].kind
        if kind != questions.ANSWER and silent and "evaluate" in job.stages:
            why = "eval.chat=false" if job.eval.chat is False else f"runtime={job.runtime.name}, which has no chat API"
            raise ValueError(
                f"eval.tasks: {task}: questions with {kind} are asked in chat alone, and {why}; leave that out, or {task}"
            )
        if kind == questions.RUBRIC and job.eval.judge.base_url is None and "evaluate" in job.stages:
            raise ValueError(
                f"eval.tasks: {task}: a rubric needs a judge, and eval.judge.base_url is not given; give the address of an "
                f"OpenAI-compatible API (https://HOST/v1) and eval.judge.model, or leave {task} out"
            )
        if kind == "call" and "evaluate" in job.stages and not job.engine_args.get("tool_call_parser"):
            raise ValueError(
                f"eval.tasks: {task} has calls of functions, and the server would parse none; give this model's parser, for "
                f"instance {tool_calls.PARSER}, or leave {task} out"
            )
        if kind == "tests" and runs and (fault := sandbox.fault()):
            raise ValueError(
                f"eval.tasks: {task} runs code that a model wrote, and {fault}; install bubblewrap, or leave {task} out"
            )
        if other := named.get(name := questions.name_of(task)):
            raise ValueError(f"eval.tasks: {other} and {task} would both be called {name}; rename one")
        named[name] = task


def refuse_silent(job: Job, model: Path | None) -> None:
    """Raises ValueError where a model that is asked to chat has no chat template. `model`: its folder, if that is here."""
    if job.eval.chat and model and (model / "tokenizer_config.json").is_file() and not _has_template(model):
        raise ValueError(
            f"eval.chat=true model={job.model.name}: it has no chat template, a base model cannot chat; leave eval.chat out"
        )


def _has_template(model: Path) -> bool:
    files = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    return any((model / name).exists() for name in files) or bool(
        read_json(model / "tokenizer_config.json").get("chat_template")
    )
