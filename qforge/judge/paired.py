"""Were two models that answered the same questions told apart by chance? p-values of paired scores, and of many tasks at once.

Scores are of items, from 0 to 1, a mean over the seeds where each was asked more than once. Where every score is 0 or 1,
McNemar's exact test counts the items that only one of the two got right: under chance alone each is as likely the one's as the
other's. Else the p-value is that of the bootstrap over items (bootstrap.mean_difference): the least error at which its interval
leaves 0 out, and no smaller than its draws can tell (0.0001 of many items, 0.0004 of 48). Both are two-sided. Holm's correction
(1979) makes the p-values of several tasks such that the chance of one false alarm among them all is no larger than that of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qforge.judge import bootstrap

if TYPE_CHECKING:
    from numpy.typing import NDArray


SMALL = 0.005  # a p-value below it is drawn again, more finely: Holm multiplies it by the number of tasks
ROUNDS = 10


def mcnemar(lost: int, won: int) -> float:
    """Exact and two-sided, of the items that only the other and that only this model got right."""
    changed = lost + won
    rarer = sum(math.comb(changed, k) for k in range(min(lost, won) + 1))
    return min(1.0, float(2 * rarer / 2**changed))


def p_value(own: NDArray[Any], other: NDArray[Any]) -> tuple[float, str]:
    """Of the scores [items] of two models, and by which test."""
    import numpy as np

    lost, won = int((own < other).sum()), int((own > other).sum())
    if np.isin([own, other], (0.0, 1.0)).all():
        return mcnemar(lost, won), f"{lost} lost, {won} won of {len(own)}, McNemar"
    p = bootstrap.mean_difference(other - own).p_value()
    if p < SMALL:
        p = bootstrap.mean_difference(other - own, rounds=ROUNDS).p_value()
    return p, f"{lost} lower, {won} higher of {len(own)}, bootstrap"


def holm(values: Sequence[float]) -> list[float]:
    """The p-values of several tests, each as if it were the only one."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted
