"""What a gate that must hold asks for and a run will not measure: the plan says so, since the verdict cannot be accept then."""

from __future__ import annotations

from qforge.config.job import Engine, Job
from qforge.evaluation import questions
from qforge.judge.metrics import METRICS
from qforge.pipeline.measure import MEASUREMENTS, left_out
from qforge.plan.plan import Plan

CHAT = "broken_answers_increase_points"
NOT = "will not be measured, so that the gate cannot hold"


def notes(job: Job, plan: Plan) -> list[str]:
    """For the plan: the criteria by the reason that they have in common, each with the key and the fix."""
    if "judge" not in job.stages or job.is_original or not job.gate.required:
        return []
    missing: dict[str, list[str]] = {}
    for name, criterion in job.gate.criteria.items():
        if why := _why(job, plan, criterion.metric):
            missing.setdefault(why, []).append(name)
    return [f"gate={job.gate.name}: {' and '.join(names)} {why}, or use another gate" for why, names in missing.items()]


def _why(job: Job, plan: Plan, metric: str) -> str | None:
    stage = METRICS[metric].stage
    stage = "evaluate" if stage == "divergence" else stage
    if stage not in MEASUREMENTS:
        return None
    if stage not in job.stages:
        return f"{NOT}: stages={job.stages} leaves {stage} out; add it"
    if reason := left_out(job, plan, stage):
        return f"{NOT}: {reason}; change that"
    return _configured(job, metric) if stage == "evaluate" else None


def _configured(job: Job, metric: str) -> str | None:
    """What the metric takes of eval, where that is left out."""
    settings, served = job.eval, job.runtime.engine is Engine.vllm
    chat = served and settings.chat is not False and settings.tasks
    prompts = served and settings.stability.prompts
    divergence = (settings.divergence.windows, "eval.divergence.windows")
    long = (settings.long_context.lengths, "eval.long_context.lengths")
    needed = {
        "task_drop_points": (settings.tasks, "eval.tasks"),
        "answers_lost_points": (settings.tasks, "eval.tasks"),
        CHAT: (chat, "a server and tasks that are asked in chat (eval=chat)"),
        "kl_nats_per_token": divergence,
        "top1_agreement_percent": divergence,
        "long_context_increase_percent": long,
        "needle_drop_points": long,
        "degenerate_increase_points": (prompts, "a server and eval.stability.prompts"),
        "differing_percent": (prompts, "a server and eval.stability.prompts"),
        "failed_requests": (
            prompts and settings.stability.load_seconds,
            "a server, eval.stability.prompts and eval.stability.load_seconds",
        ),
    }
    given, what = needed.get(metric, (True, ""))
    if not given:
        return f"{NOT}: it takes {what}; give that"
    if metric == CHAT and not any(task.endswith(questions.ENDING) for task in settings.tasks):
        return f"is measured only where one of eval.tasks={settings.tasks} is answered in words; use eval=chat"
    return None
