"""More samples of what is undecided, until the verdict is or the budget is spent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qforge.config.job import Job
from qforge.judge.metrics import METRICS


def more(first: Job, now: Job, verdict: dict[str, Any]) -> Job | None:
    """`now` with twice the windows, samples or repeats that an undecided criterion rests on.

    None where the verdict is decided, where eval.adaptive is off, or where all of them would exceed eval.budget times
    what the `first` job asked for.
    """
    if not now.eval.adaptive or verdict["verdict"] != "inconclusive":
        return None
    undecided = {METRICS[c["metric"]].grows for c in verdict["criteria"] if c["verdict"] == "inconclusive"}

    def grown(what: str, requested: int, available: int) -> int:
        return 2 * available if what in undecided and 2 * available <= first.eval.budget * requested else available

    limit = now.eval.limit and grown("samples", first.eval.limit or 0, now.eval.limit)
    windows = grown("windows", first.eval.windows, now.eval.windows)
    compared = grown("divergence", first.eval.divergence.windows, now.eval.divergence.windows)
    repeats = grown("repeats", first.bench.repeats, now.bench.repeats)
    divergence = replace(now.eval.divergence, windows=compared)
    evaluation = replace(now.eval, windows=max(windows, compared), limit=limit, divergence=divergence)
    larger = replace(now, eval=evaluation, bench=replace(now.bench, repeats=repeats))
    return larger if larger != now else None
