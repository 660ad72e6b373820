"""What a metric compares: one number of a model beside bf16's, with its spread."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from qforge.judge.bootstrap import Spread

Results = dict[str, Any]
# The first that a task has is judged; the last are IFEval's, HumanEval's and MBPP's
TASK_METRICS = ("acc_norm", "acc", "exact_match", "f1", "prompt_level_strict_acc", "pass@1", "pass_at_1")


@dataclass(frozen=True)
class Comparison:
    of: str  # which text, task or concurrency
    value: float  # in the metric's unit
    spread: Spread
    measured: float | None = None  # what the value was made of
    baseline: float | None = None
    _: KW_ONLY
    p: float | None = None  # that chance alone changes so much, of this text or task by itself
    why: str = ""  # by which test


def paired_scores(metric: str, own: Results, other: Results) -> tuple[list[float], list[float]]:
    """Of a task, by sample, the scores of both models, without the samples that a judge has not rated for each of them."""
    sides = zip(own["per_sample"][metric], other["per_sample"][metric], strict=True)
    rated = [pair for pair in sides if None not in pair]
    return [mine for mine, _ in rated], [theirs for _, theirs in rated]


def main_metric(task: Results) -> str | None:
    """The metric of a task that is judged, with its filter if it has one: its own choice, or the first of TASK_METRICS."""
    if judged := task.get("judged"):
        return str(judged)
    by_name = {metric.partition(",")[0]: metric for metric in reversed(task["per_sample"])}
    return next((by_name[name] for name in TASK_METRICS if name in by_name), None)
