"""transformers beside vLLM on a page: only where both were timed on the same model and hardware."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from support.browser import ask
from support.rows import ROWS

from qforge.report import engines, pages


def by_the_library(row: dict[str, Any], rate: float) -> dict[str, Any]:
    made = copy.deepcopy(row)
    made["measured"]["serve"] = {"not_measured": "runtime=transformers does not serve"}
    made["measured"]["bench"]["tool"] = engines.LIBRARY
    made["conditions"]["runtime"] = "transformers"
    for run in made["measured"]["bench"]["runs"].values():
        run |= {"output_throughput": rate, "peak_resident_gib": 1.5}
    return made


def test_both_engines_stand_side_by_side_with_memory_and_speed(tmp_path: Path) -> None:
    served = next(row for row in ROWS if row["method"] == "bf16" and row["measured"]["bench"].get("runs"))
    rows = [served, by_the_library(served, 10.0)]
    lines = engines.compared(rows)
    assert [line["engine"].split()[0] for line in lines] == ["transformers", "vLLM"]
    own = served["measured"]["bench"]["runs"]["1"]["output_throughput"]
    assert [(line["streams"], line["gain"]) for line in lines] == [(1, 1.0), (1, own / 10)]
    page = tmp_path / "report.html"
    pages.html(page, rows)
    cells = ask(page, "return [...document.querySelectorAll('#engines tr:nth-child(2) td')].map(td => td.textContent)")
    assert cells[2:] == ["transformers", "bf16", "", "1.5", "1", "10", "1.00"]
    assert engines.compared([served]) == []
