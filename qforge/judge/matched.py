"""Throughput at matched speed per user: what a checkpoint makes in all while each user waits no longer than with bf16.

At equal numbers of streams a checkpoint that is faster for each of them looks no better than one that is not and serves more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qforge.config.job import Criterion
from qforge.judge import bootstrap
from qforge.judge.bootstrap import Spread
from qforge.judge.comparison import Comparison, Results

if TYPE_CHECKING:
    from numpy.typing import NDArray

OTHER = 1000  # between the seeds of the two sides


def throughput(criterion: Criterion, measured: Results, baseline: Results) -> Iterator[Comparison]:
    """Change of tokens/s in percent where each user gets what bf16 gives at the criterion's concurrency; repeats are drawn.

    Between the concurrencies that were measured the curve is a straight line. Where even the most streams are faster for each
    user, what they make counts, which is less than could be had; where not even one is as fast, nothing.
    """
    import numpy as np

    runs, reference = measured["bench"]["runs"], baseline["bench"]["runs"]
    at = str(criterion.concurrency or max(runs, key=int))
    if at not in runs or at not in reference:
        return
    needed, made = (_medians(reference[at], quantity, OTHER) for quantity in ("p50_tpot_ms", "output_throughput"))
    needed = 1000 / needed
    users = np.stack([1000 / _medians(runs[c], "p50_tpot_ms", int(c)) for c in runs])
    rates = np.stack([_medians(runs[c], "output_throughput", int(c)) for c in runs])
    order = np.argsort(users, axis=0)
    users, rates = (np.take_along_axis(side, order, axis=0) for side in (users, rates))
    found = np.array([np.interp(x, u, r, right=0.0) for x, u, r in zip(needed, users.T, rates.T, strict=True)])
    gains, units = 100 * (found / made - 1), min(len(repeats) for repeats in (*runs.values(), reference[at]))
    of = f"{needed[-1]:.3g} tokens/s per user, as bf16 at concurrency {at}"
    yield Comparison(of, float(gains[-1]), Spread(gains[:-1], units), float(found[-1]), float(made[-1]))


def _medians(repeats: list[dict[str, float]], quantity: str, seed: int) -> NDArray[Any]:
    """The median of a quantity for every draw of repeats, and of the repeats themselves last."""
    import numpy as np

    values = np.array([repeat[quantity] for repeat in repeats])
    return np.append(bootstrap.medians(values, seed), np.median(values))
