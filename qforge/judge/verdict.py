"""The verdict: a quantized model against bf16 under the same conditions, criterion by criterion, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from qforge.config.job import Criterion, Gate
from qforge.judge import adaptive, conditions
from qforge.judge.bootstrap import ERROR, Interval
from qforge.judge.comparison import TASK_METRICS, Results
from qforge.judge.metrics import METRICS
from qforge.judge.paired import holm

OF_TASKS = ("task_drop_points", "answers_lost_points")
WORST_FIRST = [("fail", "reject"), ("inconclusive", "inconclusive"), ("not_measured", "not_measured")]


@dataclass(frozen=True)
class Finding:
    """One comparison: `value` is in the metric's unit, mostly the change against bf16, with its interval."""

    criterion: str
    metric: str
    of: str  # which text, task or concurrency
    verdict: str  # pass, fail, inconclusive, not_measured
    threshold: str
    value: float | None = None
    interval: Interval | None = None
    measured: float | None = None
    baseline: float | None = None
    reason: str = ""
    p: float | None = None  # that chance alone changes so much, after Holm's correction over the criterion's tasks


def judge(gate: Gate, measured: Results, baseline: Results, looks: int = 1) -> Results:
    """verdict.json, of one of up to `looks` looks at growing data: they share the error of the intervals.

    Both sides hold the results of the measurements by name, or the reason for their absence.

    accept: every criterion passes; reject: one fails; inconclusive: an interval straddles its threshold;
    not_measured: nothing fails, but something was not measured.
    Raises ValueError where the two were not measured under the same conditions: that is refused, not adjusted.
    """
    conditions.refuse_different(measured, baseline)
    error = adaptive.error(looks)
    found = [
        f for name, criterion in gate.criteria.items() for f in findings(name, criterion, measured, baseline, error)
    ]
    verdict = overall({f.verdict for f in found})
    level = {"looks": looks, "confidence_percent": 100 * (1 - error)}
    return {"verdict": verdict, "gate": gate.name, "criteria": [asdict(f) for f in found], **level}


def overall(verdicts: set[str]) -> str:
    """The verdict of several criteria."""
    return next(
        (verdict for single, verdict in WORST_FIRST if single in verdicts), "accept" if verdicts else "not_measured"
    )


def worst(found: Sequence[Results]) -> Results | None:
    """The finding that decides: of those whose verdict counts most the one that misses its threshold by the largest share."""
    for single in (*(name for name, _ in WORST_FIRST), "pass"):
        if deciding := [c for c in found if c["verdict"] == single]:
            return max(deciding, key=_missed_by)
    return None


def _missed_by(finding: Results) -> float:
    """In thresholds, of its own metric: what lies on it is at 0."""
    if finding["value"] is None:
        return -math.inf
    relation, limit = finding["threshold"].split()
    beyond = (finding["value"] - float(limit)) * (1 if relation == "<=" else -1)
    return float(beyond / (abs(float(limit)) or 1))


def threshold(criterion: Criterion) -> str:
    """<= 5 or >= 10, in the metric's unit."""
    return f"<= {criterion.at_most:g}" if criterion.at_most is not None else f">= {criterion.at_least:g}"


def missing(name: str, criterion: Criterion, reason: str) -> Finding:
    """Of what was not measured."""
    return Finding(name, criterion.metric, "", "not_measured", threshold(criterion), reason=reason)


def findings(
    name: str, criterion: Criterion, measured: Results, baseline: Results, error: float = ERROR
) -> Iterator[Finding]:
    """What a criterion, called `name`, finds: one for each text, task or load, or one that says why there is none."""
    metric = METRICS[criterion.metric]
    for side in (measured, baseline) if metric.relative else (measured,):
        if reason := side.get(metric.stage, {"not_measured": f"{metric.stage} was not run"}).get("not_measured"):
            yield missing(name, criterion, reason)
            return
    comparisons = list(metric.compare(criterion, measured, baseline))
    if not comparisons:
        tasks = f" with one of {', '.join(TASK_METRICS)}" if criterion.metric in OF_TASKS else ""
        yield missing(name, criterion, f"{metric.stage} was configured to measure nothing for it{tasks}")
    by_chance: list[float | None] = [None] * len(comparisons)
    if tested := [c.p for c in comparisons if c.p is not None]:
        by_chance = list(holm(tested))
    for c, p in zip(comparisons, by_chance, strict=True):
        verdict, reason = decide(criterion, interval := c.spread.interval(error), c.value, p, error)
        if p is not None:
            reason = f"{c.why} p = {c.p:.2g}, after Holm over {len(comparisons)} {p:.2g}"
        yield Finding(
            name, criterion.metric, c.of, verdict, threshold(criterion), c.value, interval, c.measured, c.baseline, reason, p
        )  # fmt: skip


def decide(
    criterion: Criterion, interval: Interval | None, value: float = 0, p: float | None = None, error: float = ERROR
) -> tuple[str, str]:
    """pass or fail where the whole interval lies on one side of the threshold, with the reason where it does not.

    Of what was tested against chance (`p`) a value beyond the threshold fails where chance explains it in fewer than `error` of
    the cases, wherever its interval ends.
    """
    if interval is None:
        return "inconclusive", "fewer than three windows, samples or repeats"
    if p is not None:
        beyond = value > criterion.at_most if criterion.at_most is not None else value < (criterion.at_least or 0)
        if beyond:
            return ("fail" if p < error else "inconclusive"), ""
    low, high = interval
    if criterion.at_most is not None:
        passes, fails = high <= criterion.at_most, low > criterion.at_most
    else:
        assert criterion.at_least is not None
        passes, fails = low >= criterion.at_least, high < criterion.at_least
    return ("pass", "") if passes else ("fail", "") if fails else ("inconclusive", "")
