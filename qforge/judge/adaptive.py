"""More samples of what is undecided, until the verdict is or the budget is spent; and what each look may err for that.

Whoever looks at growing data again and again, each time at 95 %, decides about a model that lies on the threshold in 13 % of
the cases by the fourth look (2, 4 and 8 times the data), not in 5 %. So the looks share the error: all intervals are made at
the level at which the looks together err in 5 % (Pocock 1977, "Group sequential methods in the design and analysis of
clinical trials", here for data that double).
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

from qforge.config.job import Job
from qforge.judge.bootstrap import ERROR
from qforge.judge.metrics import METRICS


def looks(job: Job) -> int:
    """How many times the data may be judged: each time they have doubled, up to eval.budget times the first."""
    return job.eval.budget.bit_length() if job.eval.adaptive else 1


@functools.cache
def error(looks: int) -> float:
    """What each of so many looks may err, for all together to err in ERROR. For one look that is ERROR itself."""
    normal = NormalDist()
    low, high = normal.inv_cdf(1 - ERROR / 2), normal.inv_cdf(1 - ERROR / 2 / looks)  # Bonferroni's is always enough
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _stays_inside(middle, looks) < 1 - ERROR else (low, middle)
    return 2 * normal.cdf(-high)


def _stays_inside(bound: float, looks: int) -> float:
    """How likely a mean of normal data, whose truth is 0, stays within `bound` standard errors at every look.

    Of twice the data the mean in standard errors is (z + x) / sqrt(2), with x of the new half and as large a spread as z.
    """
    import numpy as np

    def density(x: Any) -> Any:
        return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

    z = np.linspace(-bound, bound, 401)
    weights = np.full(len(z), z[1] - z[0])
    weights[[0, -1]] /= 2  # trapezoids
    inside = density(z)
    step = math.sqrt(2) * density(math.sqrt(2) * z[:, None] - z[None, :]) * weights
    for _ in range(looks - 1):
        inside = step @ inside
    return float(weights @ inside)


def more(first: Job, now: Job, verdict: dict[str, Any]) -> Job | None:
    """`now` with twice the windows, samples or repeats that an undecided criterion of the gate or of a goal rests on.

    None where all is decided (what is surely unsound is so for every goal), where eval.adaptive is off, or where all of
    them would exceed eval.budget times what the `first` job asked for.
    """
    if not now.eval.adaptive:
        return None
    sound = verdict.get("sound", {"criteria": []})["criteria"]
    judged = [(verdict["verdict"], verdict["criteria"])]
    judged += [(goal["verdict"], [*sound, *goal["criteria"]]) for goal in verdict.get("goals", {}).values()]
    criteria = [c for how, of in judged if how == "inconclusive" for c in of]
    undecided = {METRICS[c["metric"]].grows for c in criteria if c["verdict"] == "inconclusive"}

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
