"""What the verdict of a row rests on, in a few words."""

from __future__ import annotations

from typing import Any

from qforge.judge import goals

Row = dict[str, Any]


def why(row: Row) -> str:
    """In a few words what the verdict rests on; of a plan, what it says; why it failed or was refused."""
    if row.get("planned"):
        return str(row["planned"])
    if row.get("failed"):
        return str(row["failed"]["reason"]).partition("\n")[0]
    return goals.why(row)


def sign(threshold: str) -> str:
    """As people write it."""
    return threshold.replace("<=", "≤").replace(">=", "≥")
