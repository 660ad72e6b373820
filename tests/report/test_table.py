"""The flat table of rows."""

from __future__ import annotations

import json
from pathlib import Path

from support.command import ROOT
from support.rows import ROWS

from qforge.report import pages, table


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


def test_energy_and_power_are_shown_by_the_number_of_streams(tmp_path: Path) -> None:
    """Of a row of an H200: energy by itself, power where it is asked for, and both on the page of one run."""
    row = json.loads((ROOT / "results" / "qwen3_8b_random-nvfp4-h200-2026-11-29.json").read_text())
    own = row["measured"]["bench"]["runs"]
    found = {column.key: (column, values) for column, values in table.table([row]).items()}
    for streams, run in own.items():
        column, values = found[f"joules@{streams}"]
        assert (column.label, column.unit, column.shown) == (f"energy at {streams}", "MJ per million tokens", True)
        assert values == [run["gpu_joules_per_token"]]
        column, values = found[f"watts@{streams}"]
        assert (column.unit, column.shown, values) == ("W", False, [run["gpu_watts"]])
    pages.html(tmp_path / "report.html", [row])
    page = (tmp_path / "report.html").read_text()
    assert "energy, MJ per million tokens out (J per token), concurrency 64" in page
    assert "power of the GPUs, W, concurrency 64" in page
