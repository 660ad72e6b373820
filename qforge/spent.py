"""Where a run's time went, and what it did not have to spend again."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Time:
    """Seconds by stage. A run and its baseline share one; what is not counted is start-up, planning and waiting."""

    spent: dict[str, float] = field(default_factory=dict)
    saved: dict[str, float] = field(default_factory=dict)  # of what was there already: what it took when it was made
    known: set[str] = field(default_factory=set)  # results that are in one of the two

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
        """For row.json. Both together are what the row costs by itself."""
        parts = {"spent": self.spent, "saved": self.saved}
        return {name: {stage: round(s, 1) for stage, s in part.items()} for name, part in parts.items()}


def alone(time: dict[str, dict[str, float]]) -> float:
    """Seconds that a row would have cost by itself, from its summary."""
    return sum(seconds for part in time.values() for seconds in part.values())
