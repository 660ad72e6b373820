"""A job of a search: what it sets, where it runs, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from qforge.json_files import read_json
from qforge.report import unfinished
from qforge.sweeps.stopping import Row


@dataclass
class Step:
    """A job of its own, or skipped."""

    rung: str  # what it is called in the search
    why: str
    overrides: list[str] = field(default_factory=list)
    skipped: str = ""
    folder: Path | None = None
    row: Row = field(default_factory=dict)

    def start(self, folder: Path) -> None:
        """The job will run in `folder`, where nothing of an earlier sweep may be taken for its row."""
        self.folder = folder
        (folder / "row.json").unlink(missing_ok=True)


class Search(Protocol):
    """What decides which job comes next."""

    def next(self) -> Step | None:
        """The next job; none where the search has ended."""

    def record(self, step: Step) -> None:
        """Read how the job of the step ended."""


def row_of(step: Step) -> Row:
    """What the job left: its row, or its plan where only that was asked for."""
    assert step.folder
    if (file := step.folder / "row.json").is_file():
        row: Row = read_json(file)
        return row
    if (file := step.folder / "plan.json").is_file() and not unfinished.ends_with_a_row(step.folder):
        return {"verdict": "planned", "criteria": [], "size": {"bytes": read_json(file)["bytes"]}}
    return {"verdict": "failed", "criteria": [], "failed": {"reason": "the job ended without a row"}}


def replaced(overrides: list[str], by: dict[str, str]) -> list[str]:
    """The overrides with these keys set, whatever they were."""
    kept = [o for o in overrides if key_of(o) not in by]
    return [*kept, *(f"{key}={value}" for key, value in by.items())]


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
