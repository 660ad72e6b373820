"""One line per stage in the terminal, with a bar and the time left where the library behind it reports progress."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

# The libraries report through tqdm; llm-compressor's sequential pipeline numbers its bars: "(3/31): Calibrating".
TQDM = re.compile(r"(?P<what>[^\r\n:%|]*?)\s*:?\s*(?P<percent>\d+)%\|")
NUMBERED = re.compile(r"\((?P<step>\d+)/(?P<steps>\d+)\):\s*(?P<what>\w+)")

# Without markup and emoji: much of what is printed is the user's (names, reasons, patterns such as [qkv]_proj). What has a
# colour of its own is a Text.
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
if not console.is_terminal:
    console.width = 120  # a log file or CI; rich would take 80


@dataclass(frozen=True)
class Pace:
    """How fast a bar fills: when and where it began, and where it was last. Times in seconds, shares of the bar in [0, 1].

    Rich's own estimate looks back half a minute, in which a library may say nothing.
    """

    began: float
    first: float
    seen: float
    done: float

    def at(self, now: float, done: float) -> Pace:
        """With a new reading; one that is lower is of the stage's next bar."""
        return Pace(now, done, now, done) if done < self.done else replace(self, seen=now, done=done)

    def left(self, now: float) -> float | None:
        """Seconds until the bar is full; none before it has moved."""
        if self.done <= self.first:
            return None
        whole = (self.seen - self.began) / (self.done - self.first)
        return max((1 - self.done) * whole - (now - self.seen), 0)


class TimeLeft(ProgressColumn):
    """The time left of the bar that a stage shows, empty where it shows none."""

    def render(self, task: Task) -> Text:
        pace: Pace | None = task.fields["pace"]
        left = pace.left(time.monotonic()) if pace else None
        minutes, seconds = divmod(round(left or 0), 60)
        return Text("" if left is None else f"{minutes}:{seconds:02} left", style="progress.remaining")


class Line:
    """The line of a running stage; feed it the stage's output."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress, self._task = progress, task
        self._pace: Pace | None = None
        self.note = ""
        self.waited = 0.0  # seconds of it that were spent on waiting for others

    def feed(self, output: str) -> None:
        """Move the bar where `output` (a line, or one update of a tqdm bar) says how far the work is."""
        progress = fraction(output)
        if progress and self._progress and self._task is not None:
            done, what = progress
            now = time.monotonic()
            self._pace = self._pace.at(now, done) if self._pace else Pace(now, done, now, done)
            # never full: Rich would take the stage for finished
            self._progress.update(self._task, completed=min(done, 0.999), total=1.0, what=what, pace=self._pace)


def fraction(output: str) -> tuple[float, str] | None:
    """How far a line of tqdm says the work is, in [0, 1], and its own word for it; none where it says nothing."""
    bar = TQDM.search(output)
    if not bar:
        return None
    percent = int(bar["percent"]) / 100
    if step := NUMBERED.search(output):
        # two bars per step: calibrate, then propagate
        half = {"Calibrating": 0.0, "Propagating": 0.5}.get(step["what"], 0.0)
        done = (int(step["step"]) - 1 + half + percent / 2) / int(step["steps"])
        return min(done, 1.0), f"{step['what'].lower()} {step['step']}/{step['steps']}"
    return percent, bar["what"].strip().lower()[:32]


@contextmanager
def progress_line(name: str, detail: str = "") -> Iterator[Line]:
    """Show a stage while it runs, and one line with its duration when it has succeeded."""
    started = time.monotonic()
    if console.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:10}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[what]}", style="dim", markup=False),
            TimeElapsedColumn(),
            TimeLeft(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            line = Line(progress, progress.add_task(name, total=None, what=detail, pace=None))
            yield line
    else:
        console.print(f"  … {name:10} {detail}", style="dim")
        line = Line(None, None)
        yield line
    _print_marked("✓", "green", f"{name:10} {time.monotonic() - started - line.waited:6.1f} s  {line.note or detail}")


def print_waiting(resource: str) -> None:
    """Say that another job has what this one needs."""
    _print_marked("~", "yellow", f"waiting for another job that has {resource}")


def print_reused(name: str, detail: str) -> None:
    """Say that a stage's result was there already."""
    _print_marked("=", "cyan", f"{name:10}  reused  {detail}")


def _print_marked(mark: str, colour: str, message: str) -> None:
    console.print(Text.assemble("  ", (mark, colour), f" {message}"))
