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


def of_cache(row: Row) -> str:
    """Of a row with another KV cache than bf16: how bf16 weights fare with it."""
    return f"bf16 weights with kv={cache['kv']}: {cache['says']}" if (cache := row.get("cache")) else ""


def it_is_the_cache(verdict: Row) -> str:
    """What a verdict says besides where bf16 weights fail with that KV cache, too."""
    if verdict["sound"]["verdict"] != "reject" or verdict["cache"]["verdict"] != "reject":
        return ""
    return f"; {of_cache(verdict)}, so it is the cache: use kv=auto, or kv=fp8_calibrated where it has no scales"


def sign(threshold: str) -> str:
    """As people write it."""
    return threshold.replace("<=", "≤").replace(">=", "≥")
