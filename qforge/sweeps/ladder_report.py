"""What a ladder found: ladder.json, and one short table per climb."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from qforge.console import console
from qforge.json_files import write_json
from qforge.report.terminal import coloured
from qforge.sweeps.ladder import Climb
from qforge.sweeps.step import Step
from qforge.sweeps.stopping import missed, numbers, quality_of

SHOWN = {"loss": ("loss, nats/token", 1.0, ".4f"), "kl": ("KL, nats/token", 1.0, ".4f"),
         "bytes": ("MB", 1e-6, ".1f"), "tokens_per_second": ("tokens/s", 1.0, ".0f")}  # fmt: skip


def write(file: Path, climbs: Sequence[Climb]) -> None:
    """ladder.json: every climb with its rungs, what each measured and what it gained over the rung before."""
    write_json(file, {"climbs": [_summary(climb, file.parent) for climb in climbs]})


def _summary(climb: Climb, folder: Path) -> dict[str, Any]:
    assert climb.end
    best = climb.best
    return {
        "start": climb.start, "outcome": climb.end.outcome, "why": climb.end.why, "best": best.rung if best else None,
        "rungs": [{"rung": s.rung, "why": s.why, **_found(s, folder), **b} for s, b in gains(climb.steps)],
    }  # fmt: skip


def _found(step: Step, folder: Path) -> dict[str, Any]:
    if step.skipped:
        return {"skipped": step.skipped}
    assert step.folder
    return {
        "overrides": step.overrides, "folder": os.path.relpath(step.folder, folder), "verdict": step.row["verdict"],
        "quality": quality_of(step.row), "missed": list(missed(step.row, True)), "reason": reason(step),
    }  # fmt: skip


def reason(step: Step) -> str:
    """Why the rung has no numbers, where it has none."""
    return step.skipped or str(step.row.get("failed", {}).get("reason", ""))


def gains(steps: Sequence[Step]) -> Iterator[tuple[Step, dict[str, dict[str, float]]]]:
    """Each rung with what it measured, and that less what the last measured rung below it did."""
    below: dict[str, float] = {}
    for step in steps:
        now = numbers(step.row)
        yield step, {"measured": now, "gained": {key: now[key] - below[key] for key in now if key in below}}
        below = now or below


def show(climbs: Sequence[Climb]) -> None:
    """One table per climb, and how it ended."""
    for climb in climbs:
        if climb.start and len(climbs) > 1:
            console.print(" ".join(climb.start), style="bold")
        console.print(_table(climb))
        for step in climb.steps:
            if why := reason(step):
                console.print(f"{step.rung}: {why}", style="dim")
        console.print(_ending(climb))


def _table(climb: Climb) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("rung", "job", "verdict", "quality", *(title for title, _, _ in SHOWN.values())):
        table.add_column(name)
    for step, gain in gains(climb.steps):
        where = step.folder.name if step.folder else "-"
        verdict = "skipped" if step.skipped else step.row["verdict"]
        quality = quality_of(step.row) if step.row.get("criteria") else ""
        cells = [_cell(key, gain["measured"], gain["gained"]) for key in SHOWN]
        table.add_row(step.rung, where, coloured(verdict), quality, *cells)
    return table


def _cell(key: str, measured: dict[str, float], gained: dict[str, float]) -> str:
    _, unit, form = SHOWN[key]
    if key not in measured:
        return "-"
    return f"{measured[key] * unit:{form}}" + (f" ({gained[key] * unit:+{form}})" if key in gained else "")


def _ending(climb: Climb) -> str:
    assert climb.end
    best = climb.best
    if climb.end.outcome == "accepted":
        assert best
        return f"accepted: {best.rung}, {best.folder}"
    least = f"; the lowest loss is {best.rung}'s, {best.folder}" if best else ""
    undecided = any(s.row and quality_of(s.row) == "inconclusive" for s in climb.steps)
    more = "; some were inconclusive: eval.adaptive=true measures more of what is undecided" if undecided else ""
    return f"{climb.end.outcome.replace('_', ' ')}: {climb.end.why}{least}{more}"
