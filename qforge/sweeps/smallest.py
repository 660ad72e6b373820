"""The smallest checkpoint that a gate accepts: sizes by halves, each with the formats of least measured loss for it.

Losses are measured once, by the first job; each chooses for its size, makes the checkpoint, serves and judges it. More bits are
taken to lose no more: what is smaller than a size that was not accepted is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from rich.table import Table

from qforge.config.job import Job
from qforge.console import console
from qforge.json_files import write_json
from qforge.pipeline import fetch, structure
from qforge.pipeline.run import Run
from qforge.plan import budget
from qforge.report.terminal import coloured
from qforge.sweeps.ladder import refuse
from qforge.sweeps.step import Step, key_of, replaced, row_of
from qforge.sweeps.stopping import numbers, quality_of

NAME = "search=smallest"
METHOD, BITS = "method", "method.bits"


class Halving:
    """One search, for one combination of what the user swept. `within`: the part of the size that is too little to halve."""

    def __init__(self, start: list[str], job_of: Callable[[list[str]], Job], folder: Path, within: float) -> None:
        if not (isinstance(within, int | float) and 0 < within < 1):
            raise ValueError(
                f"{NAME} hydra.sweeper.within={within}: is the part of the size that is too little to halve; give one "
                "between 0 and 1, as 0.02"
            )
        for override in start:
            if key_of(override) in (METHOD, BITS):
                raise ValueError(
                    f"{NAME} {override}: the search sets it, job by job; leave it out, and give method.candidates"
                )
        self.start, self.within, self.steps = start, within, list[Step]()
        job = job_of(self._overrides(16))
        refuse(job, NAME)
        here = fetch.known_model(run := Run(job, folder))
        found = budget.options(structure.known(run, here).job, here)
        self.low, self.high = found.bits(found.smallest), found.bits(found.largest)
        self.best: Step | None = None
        self.least = self.low  # bits per weight that are not known to be too few

    def next(self) -> Step | None:
        """The smallest size first, then the middle of what is left; none where that is little, or where nothing is judged."""
        if self.steps and not self.steps[-1].row.get("criteria"):
            return None
        if not self.steps:
            bits = self.low
        elif self.best is self.steps[0] or self.high - self.least <= self.within * self.high:
            return None
        else:
            bits = (self.least + self.high) / 2
        text = f"{ceil(1000 * bits) / 1000:g}"
        why = "the middle of what is left" if self.steps else "the smallest that the formats come to"
        step = Step(f"{text} bits", why, self._overrides(text))
        self.steps.append(step)
        return step

    def record(self, step: Step) -> None:
        """Go on below it where its quality was accepted, else above."""
        step.row = row_of(step)
        if not step.row.get("criteria"):
            return
        bits = float(step.row["size"]["bits_per_weight"])
        if quality_of(step.row) == "accept":
            self.best, self.high = step, bits
        else:
            self.least = float(key_value(step.overrides, BITS))

    def _overrides(self, bits: object) -> list[str]:
        return replaced(self.start, {METHOD: "budget", BITS: str(bits)})


def key_value(overrides: Sequence[str], key: str) -> str:
    """What the overrides set a key to."""
    return next(o.partition("=")[2] for o in overrides if key_of(o) == key)


def write(file: Path, searches: Sequence[Halving]) -> None:
    """smallest.json: every search with its sizes, what each measured, and the smallest that was accepted."""
    write_json(file, {"searches": [_summary(search) for search in searches]})


def _summary(search: Halving) -> dict[str, Any]:
    return {
        "start": search.start, "smallest": search.low, "best": search.best.rung if search.best else None,
        "steps": [
            {"bits": step.rung, "folder": step.folder.name if step.folder else None, "verdict": step.row.get("verdict"),
             "quality": quality_of(step.row) if step.row.get("criteria") else None, "measured": numbers(step.row)}
            for step in search.steps
        ],
    }  # fmt: skip


def show(searches: Sequence[Halving]) -> None:
    """One table per search, and what it found."""
    for search in searches:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("size", "job", "verdict", "quality", "loss, nats/token", "MB"):
            table.add_column(name)
        for step in search.steps:
            found = numbers(step.row)
            cells = [
                f"{found[key] * unit:{form}}" if key in found else "-"
                for key, unit, form in (("loss", 1, ".4f"), ("bytes", 1e-6, ".1f"))
            ]
            quality = quality_of(step.row) if step.row.get("criteria") else ""
            table.add_row(
                step.rung, step.folder.name if step.folder else "-", coloured(step.row["verdict"]), quality, *cells
            )
        console.print(table)
        best, last = search.best, search.steps[-1]
        if not last.row.get("criteria"):
            console.print(
                f"{last.rung}: {last.row.get('failed', {}).get('reason') or last.row['verdict']}", style="yellow"
            )
        console.print(
            f"smallest accepted: {best.row['size']['bits_per_weight']:.2f} bits per weight, {best.folder}" if best
            else "nothing smaller than the largest was accepted; give larger candidates, or a looser gate"
        )  # fmt: skip
