"""What of a row a tracking server is told: parameters, and metrics with their intervals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
ODD = re.compile(r"[^\w\-. /]")  # what MLflow does not take in a name
LONGEST = 500  # characters of a parameter that every version of MLflow takes


def name(row: Row) -> str:
    """What the run is called."""
    group = f"g{row['group_size']}" if row.get("group_size") else ""
    experiment = (row.get("experiment") or {}).get("name", "")
    return " ".join(filter(None, [row["model"], row["method"], row.get("online"), group, experiment]))


def params(row: Row) -> dict[str, str]:
    """What the run was asked for."""
    gate, asked = row.get("gate"), row["conditions"]
    values = {
        "model": row["model"], "method": row["method"], "online": row.get("online"),
        "group_size": row.get("group_size"), "layout": row.get("layout"),
        "exempt": ", ".join(row.get("exempt") or {}), "gate": gate["name"] if isinstance(gate, dict) else gate,
        "experiment": (row.get("experiment") or {}).get("name"),
        **{key: value for key, value in asked.items() if not isinstance(value, dict | list)},
        "calibrated_on": ", ".join(asked.get("calibrated_on", [])),
    }  # fmt: skip
    return {key: str(value)[:LONGEST] for key, value in values.items() if value not in (None, "")}


def tags(row: Row) -> dict[str, str]:
    """What is no parameter: the verdict, and what made the row."""
    made = row["qforge"]
    reason = (row.get("failed") or {}).get("reason", "")
    every = {
        "verdict": row["verdict"], "says": row.get("says"), "reason": reason, "caution": row.get("caution"),
        "qforge.version": made["version"], "qforge.commit": made["commit"], "qforge.command": row["command"],
        "qforge.date": row["date"],
    }  # fmt: skip
    return {key: str(value) for key, value in every.items() if value}


def metrics(row: Row) -> Iterator[tuple[str, float, int]]:
    """Name, value and step: of a speed its streams. Of a criterion also `low` and `high`, the ends of its interval."""
    for each in row["criteria"]:
        if each["value"] is not None:
            key = f"{each['metric']}/{each['of']}" if each["of"] else each["metric"]
            yield _of(key, each["value"])
            yield from (
                _of(f"{key}/{end}", bound) for end, bound in zip(("low", "high"), each["interval"], strict=True)
            )
    yield from (_of(f"size/{key}", value) for key, value in row.get("size", {}).items() if value is not None)
    measured = row.get("measured") or {}
    for text, found in (measured.get("evaluate", {}).get("texts") or {}).items():
        yield _of(f"perplexity/{text}", found["perplexity"])
    for streams, run in (measured.get("bench", {}).get("runs") or {}).items():
        yield from (_of(f"bench/{key}", run[key], int(streams)) for key in run if isinstance(run[key], int | float))


def _of(key: str, value: float, step: int = 0) -> tuple[str, float, int]:
    return ODD.sub("_", key), float(value), step
