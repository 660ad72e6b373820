"""Intervals by the expanded percentile bootstrap, over the units that were drawn: windows, documents, repeats.

Paired: both models saw the same units, so one draw of units gives both values. The draws are the same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 2000
ERROR = 0.05  # how often the truth lies outside of an interval, if the data are looked at once: 95 % intervals
FEWEST = 3  # units, below which a spread says nothing

Interval = tuple[float, float]


def draws(units: int, seed: int = 0) -> NDArray[Any]:
    """Indices of units drawn with replacement, [RESAMPLES, units]."""
    import numpy as np

    return np.random.default_rng(seed).integers(units, size=(RESAMPLES, units))


@dataclass(frozen=True)
class Spread:
    """A value computed for every draw, and how many units each draw was made of."""

    values: NDArray[Any]
    units: int

    def interval(self, error: float = ERROR) -> Interval | None:
        """The interval outside of which the truth lies with probability `error`, half of it on each side.

        None where fewer than FEWEST units were measured.
        """
        import numpy as np

        if self.units < FEWEST:
            return None
        low, high = np.quantile(self.values, (tail := _tail(self.units, error), 1 - tail))
        return float(low), float(high)

    def p_value(self) -> float:
        """Two-sided: the least error whose interval does not hold 0; 1 where there are too few units for an interval.

        It is no smaller than the error whose interval leaves out one draw on each side: of what is rarer the draws say nothing.
        """
        if self.units < FEWEST:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            interval = self.interval(middle)
            assert interval
            unknown = _tail(self.units, middle) * len(self.values) < 1
            low, high = (middle, high) if unknown or interval[0] <= 0 <= interval[1] else (low, middle)
        return high


def exact(value: float) -> Spread:
    """Of what was counted or is known: no interval but itself."""
    import numpy as np

    return Spread(np.array([value]), FEWEST)


def _tail(units: int, error: float) -> float:
    """The share of draws to leave out on each side.

    Plain percentiles are too narrow for few units: 20 windows cover 90 % where 95 % is said. Hesterberg (2015, "What
    teachers should know about the bootstrap", 4.3) expands them by sqrt(n / (n - 1)) and Student's t; t's quantile by
    Abramowitz and Stegun 26.7.5.
    """
    normal, freedom = NormalDist(), units - 1
    z = normal.inv_cdf(1 - error / 2)
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    t = sum(term / freedom**power for power, term in enumerate(terms))
    return normal.cdf(-t * (units / freedom) ** 0.5)


def mean_difference(differences: NDArray[Any], scale: float = 1.0, rounds: int = 1) -> Spread:
    """Of the mean of paired differences of scores in [0, 1] by document, times `scale`; of `rounds` times RESAMPLES draws.

    One document won and one lost are added before drawing, as Bonett and Price (2012) do for paired proportions: else a
    handful of documents that score alike would prove that all do.
    """
    import numpy as np

    padded = np.append(differences, [1.0, -1.0])
    means = [padded[draws(len(padded), seed)].mean(1) for seed in range(rounds)]
    return Spread(scale * np.concatenate(means), len(differences))


def ratio(sums: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """sum / count for every draw of windows, and how many windows there are: the mean per token."""
    drawn = draws(len(counts))
    return sums[drawn].sum(1) / counts[drawn].sum(1), len(counts)


def medians(values: NDArray[Any], seed: int) -> NDArray[Any]:
    """The median of every draw of repeats. Of three repeats this spans from the slowest to the fastest."""
    import numpy as np

    return np.asarray(np.median(values[draws(len(values), seed)], axis=1))
