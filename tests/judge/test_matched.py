"""Throughput at matched speed per user, on curves that were put down by hand."""

from __future__ import annotations

import pytest
from support.measured import results

from qforge.config.job import Criterion
from qforge.judge import matched
from qforge.judge.comparison import Comparison


def curve(points: dict[int, tuple[float, float]]) -> dict:
    """Results with tokens/s in all and per user by concurrency, each measured three times alike."""
    runs = {str(n): [{"output_throughput": made, "p50_tpot_ms": 1000 / user}] * 3 for n, (made, user) in points.items()}
    return {**results(), "bench": {"runs": runs}}


BF16 = curve({1: (100.0, 100.0), 8: (640.0, 80.0), 64: (2560.0, 40.0)})


def found(measured: dict, concurrency: int | None = None) -> Comparison:
    (comparison,) = matched.throughput(
        Criterion("matched_throughput_gain_percent", concurrency=concurrency), measured, BF16
    )
    return comparison


def test_it_is_read_off_the_line_between_two_concurrencies() -> None:
    faster = curve({1: (150.0, 150.0), 8: (800.0, 100.0), 64: (3200.0, 50.0)})
    at_8 = found(faster, 8)  # 80 tokens/s per user lie at 3/5 of the way from 50 to 100
    assert (at_8.value, at_8.of) == (
        pytest.approx(100 * (1760 / 640 - 1)),
        "80 tokens/s per user, as bf16 at concurrency 8",
    )
    assert at_8.spread.interval() == (pytest.approx(at_8.value), pytest.approx(at_8.value))


def test_beyond_the_curve_what_was_measured_counts_and_nothing_else() -> None:
    faster = curve({1: (150.0, 150.0), 64: (3200.0, 50.0)})
    assert found(faster).value == pytest.approx(25)  # at bf16's 40 it could serve more than 64
    slower = curve({1: (70.0, 70.0), 8: (480.0, 60.0), 64: (2560.0, 40.0)})
    assert found(slower, 8).value == -100  # not even one user gets 80
    assert found(slower, 64).value == pytest.approx(0)


def test_what_was_not_measured_at_the_concurrency_finds_nothing() -> None:
    assert not [
        *matched.throughput(Criterion("matched_throughput_gain_percent", concurrency=8), curve({1: (9.0, 9.0)}), BF16)
    ]
