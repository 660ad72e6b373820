"""What a page says of answers in chat: what went wrong, and what was lost, side by side."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from support.rows import ROWS

from qforge.evaluation.asking import FAULTS
from qforge.report import pages


def asked(cut_off: int) -> dict[str, Any]:
    faults = {**dict.fromkeys(FAULTS, 0), "cut_off": cut_off}
    task = {"metrics": {"contains": 0.5}, "samples": 48, "judged": "contains"}
    return {"short_answers": {**task, "asked": {"seeds": 3, "answers": 144, "tokens": 31.4, "faults": faults}}}


def test_faults_and_flips_stand_side_by_side(tmp_path: Path) -> None:
    row = copy.deepcopy(next(row for row in ROWS if row.get("baseline")))
    row["measured"]["evaluate"]["tasks"], row["baseline"]["evaluate"]["tasks"] = asked(7), asked(2)
    row["measured"]["flips"] = {
        "short_answers": {
            "metric": "contains", "items_lost": 9, "items_won": 4, "of": 48,
            "items": [{"item": "3", "seed": 1, "loss": 1.0, "asked": "Capital of <Spain>?", "wanted": ["Madrid"],
                       "bf16": "It is Madrid.", "model": "It is Lisbon.", "bf16_faults": [], "model_faults": ["cut_off"]}],
        }
    }  # fmt: skip
    pages.html(tmp_path / "report.html", [row])
    page = (tmp_path / "report.html").read_text()
    assert "short_answers, 48 questions, 3 seeds" in page
    assert "7 (2)" in page, "cut off, bf16 in brackets"
    assert "9 of 48 questions lost and 4 won" in page
    assert "Capital of &lt;Spain&gt;?" in page, "what was asked is text"
    assert page.index("It is Madrid.") < page.index("It is Lisbon.")
    assert "(cut off)" in page


def test_a_row_without_answers_says_nothing_of_them(tmp_path: Path) -> None:
    pages.html(tmp_path / "report.html", [ROWS[0]])
    assert "Answers in chat" not in (tmp_path / "report.html").read_text()
