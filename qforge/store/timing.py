"""Where a run's time went, and what it did not have to spend again."""

from __future__ import annotations

import time


class Time:
    """Seconds by stage. A run and its baseline share one."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.spent: dict[str, float] = {}
        self.saved: dict[str, float] = {}  # of what was there already: what it took when it was made
        self.known: set[str] = set()  # results that are in one of the two
        self.waited = 0.0  # for other jobs

    def spend(self, stage: str, key: str, seconds: float) -> None:
        """A result was made in this run."""
        self.spent[stage] = self.spent.get(stage, 0.0) + seconds
        self.known.add(key)

    def save(self, stage: str, key: str, seconds: float) -> None:
        """A result was there; nothing is saved by one that this run has made, or found, itself."""
        if key not in self.known:
            self.saved[stage] = self.saved.get(stage, 0.0) + seconds
            self.known.add(key)

    def summary(self) -> dict[str, dict[str, float]]:
        """For row.json. `other` is what no stage has spent: planning, inspecting, judging, the end of the server."""
        other = time.monotonic() - self.started - sum(self.spent.values()) - self.waited
        parts = {
            "spent": {**self.spent, "other": other},
            "saved": self.saved,
            "waited": {"waiting": self.waited},
        }
        return {name: {stage: round(seconds, 1) for stage, seconds in part.items()} for name, part in parts.items()}


def alone(summary: dict[str, dict[str, float]]) -> float:
    """Seconds that a row would have cost by itself, with nothing there but the model and no other job waited for."""
    return sum(seconds for way in ("spent", "saved") for stage, seconds in summary[way].items() if stage != "fetch")
