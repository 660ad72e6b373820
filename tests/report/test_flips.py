"""What a page says of answers in chat: what went wrong, and what was lost, side by side."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from support.jobs import job
from support.rows import ROWS

from qforge.evaluation.asking import FAULTS
from qforge.report import card, pages, terminal


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


def test_what_a_judge_said_stands_in_a_sentence(tmp_path: Path) -> None:
    row = copy.deepcopy(next(row for row in ROWS if row.get("baseline")))
    said = {"judge": "m", "questions": 80, "mean": 6.25, "unrated": 3, "unanswered": 0, "error": "", "pairs": None}
    row["baseline"]["evaluate"]["chat"] = {**said, "mean": 6.5}
    pairs = {"of": 160, "won": 40, "lost": 52, "tied": 66, "undecided": 2, "agreement": 0.7}
    row["measured"]["evaluate"]["chat"] = {**said, "pairs": pairs, "unanswered": 1, "error": "500: away"}
    row["measured"]["evaluate"]["chat"]["cut_off"] = 5
    said_of_both = [terminal.headline("evaluate", row[side]["evaluate"]) for side in ("measured", "baseline")]
    assert said_of_both[0].endswith("MT-bench 6.25 of 10, 40 won, 52 lost, 66 tied beside the baseline")
    assert said_of_both[1].endswith("MT-bench 6.50 of 10")
    row["baseline"]["evaluate"]["chat"]["mean"] = None
    assert terminal.headline("evaluate", row["baseline"]["evaluate"]).endswith("MT-bench: no rating")
    row["baseline"]["evaluate"]["chat"]["mean"] = 6.5
    pages.html(tmp_path / "report.html", [row])
    page = (tmp_path / "report.html").read_text()
    assert "MT-bench, rated by m: 6.25 of 10 (bf16 6.50) over 80 questions of two turns, 3 answers not rated" in page
    assert (
        "Beside bf16: 40 won, 52 lost, 66 tied, 2 undecided of 160; in both orders the judge says the same of 70 %"
        in page
    )
    assert "The judge was cut off 5 times: a larger eval.judge.judge_tokens" in page
    assert "1 requests were not answered: 500: away" in page


def test_a_task_of_which_the_judge_rated_nothing_of_bf16s_has_no_number_beside_it(tmp_path: Path) -> None:
    row = copy.deepcopy(next(row for row in ROWS if row.get("baseline")))
    said = {"judge": "m", "unrated": 2, "unanswered": 0, "error": ""}
    for side, metrics, rated in (("measured", {"rubric": 0.625}, said), ("baseline", {}, {**said, "unrated": 144})):
        tasks = asked(0)
        tasks["short_answers"] |= {"metrics": metrics, "judged": "rubric" if metrics else None, "rated": rated}
        row[side]["evaluate"]["tasks"] = tasks
    pages.html(tmp_path / "report.html", [row])
    page = (tmp_path / "report.html").read_text()
    assert "The judge was cut off" not in page
    assert "short_answers: rated by m against each question's rubric; 2 answers not rated (bf16 144)." in page
    assert '<td>short_answers, rubric (48 samples)</td><td class="n">0.625</td><td class="n"></td>' in page
    assert "2 answers to short_answers not rated" in terminal.headline("evaluate", row["measured"]["evaluate"])
    model_card = pages.render("card.md.j2", escape=False, row=row, metadata=card.metadata(job(), row, None))
    assert "| short_answers (48 samples), rubric | 0.625 |  |" in model_card
