"""The flat table of rows."""

from __future__ import annotations

from support.rows import ROWS

from qforge.report import table


def test_the_bounds_of_the_loss_are_those_of_its_own_criterion() -> None:
    """KL and agreement name the same texts, and a gate may ask for them first."""
    (row,) = [r for r in ROWS if r["method"] == "gptq"]
    judged = row["sound"]
    own = next(c for c in judged["criteria"] if c["of"] == "python_reference")

    def with_criteria(*criteria: table.Row) -> table.Row:
        return {**row, "sound": {**judged, "criteria": list(criteria)}}

    other = {**own, "criterion": "kl", "metric": "kl_nats_per_token", "interval": [0.1, 0.2]}
    found = {c.key: values for c, values in table.table([with_criteria(other, *judged["criteria"])]).items()}
    assert [found["low"][0], found["high"][0]] == own["interval"]
    assert found["low"][0] < found["loss"][0] < found["high"][0]
    without = {c.key: values for c, values in table.table([with_criteria(other)]).items()}
    assert "low" not in without, "the loss was not judged, so nobody knows its bounds"
