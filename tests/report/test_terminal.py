"""What is printed is what was written: nothing of the user's is read as Rich's markup or as an emoji."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from support.jobs import job
from support.rows import ROWS

from qforge import console
from qforge.inspect.artifact import Verified
from qforge.plan import plan
from qforge.plan.guide import Advice, Choice
from qforge.report import plan_table, table, terminal

ODD = "see [/b] notes, [qkv]_proj :key: [red]"
TIME: dict[str, dict[str, float]] = {"spent": {}, "waited": {}, "saved": {}}


def printed(show: Callable[[], object]) -> str:
    with console.console.capture() as capture:
        show()
    return " ".join(capture.get().split())


def plan_with_odd_words() -> None:
    made = job(
        f"exempt.lm_head.why='{ODD}'", f"model.caution='{ODD}'", f"method.summary='{ODD}'", f"hw.name='{ODD}'"
    )  # fmt: skip
    plan_table.plan(plan.make(made, None), made)


def row_with_odd_words() -> None:
    row = {**copy.deepcopy(ROWS[0]), "time": TIME}
    first = row["sound"]["criteria"][0]
    row["model"] = row["method"] = row["says"] = first["of"] = first["reason"] = ODD
    terminal.row(row)


def guide_with_odd_words() -> None:
    plan_table.guide([Choice(ODD, ODD, None, ODD, [])], [Advice(ODD, ODD, ODD, ODD)])


def progress_with_odd_words() -> None:
    console.print_reused(ODD, ODD)
    console.print_waiting(ODD)
    with console.progress_line(ODD, ODD) as line:
        line.note = ODD


@pytest.mark.parametrize(
    ("show", "times"),
    [
        (plan_with_odd_words, 4),
        (row_with_odd_words, 6),
        (guide_with_odd_words, 5),
        (progress_with_odd_words, 7),
        (lambda: terminal.verified(ODD, Verified([], [ODD], [ODD])), 3),
        (lambda: terminal.warn(ODD), 1),
        (lambda: terminal.ranking(table.table([{**ROWS[0], "method": ODD}])), 1),
    ],
)
def test_words_of_the_user_are_printed_as_they_are(
    show: Callable[[], None], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.console, "width", 400)
    assert printed(show).count(ODD) == times


def test_the_line_of_a_running_stage_shows_what_the_library_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "console", Console(force_terminal=True, width=160, markup=False))
    with console.console.capture() as capture, console.progress_line(ODD, ODD) as line:
        line.feed(f"{ODD}: 50%|")
    assert capture.get().count(ODD) >= 2


def test_what_is_ours_has_its_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = Console(force_terminal=True, width=160, markup=False)
    monkeypatch.setattr(terminal, "console", coloured)
    monkeypatch.setattr(plan_table, "console", coloured)
    unsound = next(row for row in ROWS if row["method"] == "gptq")
    with coloured.capture() as capture:
        terminal.row({**unsound, "time": TIME})
        plan_table.plan(plan.make(job(), None), job())
    assert f"\x1b[1;31m{unsound['says']}\x1b[0m" in capture.get()
    assert "\x1b[32mweight-only\x1b[0m on cpu with vllm_cpu" in capture.get()


def test_the_end_of_a_few_rows_says_what_was_accepted_for_what_and_what_was_rejected_and_why() -> None:
    gptq = next(row for row in ROWS if row["method"] == "gptq")
    good = {
        **gptq, "method": "w8a8", "group_size": None, "says": "sound; good for memory (2.4x smaller)",
        "sound": {"verdict": "accept", "criteria": gptq["sound"]["criteria"]},
    }  # fmt: skip
    columns = table.table([gptq, good])
    said = printed(lambda: terminal.sweep(columns, {"seconds": 9, "alone": 9, "best": {}, "same": []}, Path("/sweep")))
    accepted, rejected = said.index("accepted w8a8: good for memory (2.4x smaller)"), said.index("rejected gptq g64: ")
    assert accepted < rejected
    assert gptq["says"].removeprefix("unsound: ") in said[rejected:]
    assert said.strip().endswith("report: /sweep/report.html")
