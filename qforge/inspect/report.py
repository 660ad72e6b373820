"""What an inspection has found."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN = 3  # examples per finding


@dataclass
class Report:
    """What was checked, and every fault with a few examples."""

    faults: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    planned_bytes: int = 0

    def add(self, what: str, names: list[str], means: str) -> None:
        """Note a fault that `names` share; does nothing for an empty list."""
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            self.faults.append(f"{what}: {', '.join(names[:SHOWN])}{more}: {means}")
