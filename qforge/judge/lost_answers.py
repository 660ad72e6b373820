"""Metrics of answers that were lost, beyond chance (paired.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qforge.config.job import Criterion
from qforge.judge import bootstrap, paired
from qforge.judge.comparison import Comparison, Results, main_metric, paired_scores


def answers(criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """Drop of the task's main metric in points, beyond chance by McNemar's test or the bootstrap, with Holm's correction."""
    for name, task in measured["evaluate"]["tasks"].items():
        if (metric := main_metric(task)) is None:
            continue
        own, other = paired_scores(metric, task, baseline["evaluate"]["tasks"][name])
        found, asked = _paired(f"{name} {metric}", own, other), len(task["per_sample"][metric])
        unrated = f"{asked - len(own)} of {asked} questions not rated, " if len(own) < asked else ""
        yield replace(found, why=unrated + found.why)


def broken_answers(criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """More answers in chat with a fault (cut off, looping, empty ...) than of bf16, in points, by task, beyond chance."""
    for name, task in measured["evaluate"]["tasks"].items():
        if "asked" in task:
            sides = (task, baseline["evaluate"]["tasks"][name])
            own, other = ([1 - share for share in side["asked"]["broken"]] for side in sides)
            whole = _paired(name, own, other)
            yield replace(whole, measured=100 - (whole.measured or 0), baseline=100 - (whole.baseline or 0))


def _paired(of: str, own: list[float], other: list[float]) -> Comparison:
    """What the first lost against the second, both scores of the same items, in points; of no item nothing, and no share."""
    import numpy as np

    scores, reference = np.array(own), np.array(other)
    lost = reference - scores
    p, why = paired.p_value(scores, reference)
    spread = bootstrap.mean_difference(lost, 100)
    if not own:
        return Comparison(of, 0.0, spread, p=p, why=why)
    own_share, other_share = 100 * float(scores.mean()), 100 * float(reference.mean())
    return Comparison(of, 100 * float(lost.mean()), spread, own_share, other_share, p=p, why=why)
