"""Which row is the best for a goal: of those that are good for it, under the same conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qforge.judge.verdict import worst

Row = dict[str, Any]
RANK = "for:"  # and a goal: the key of a column of places


def ranks(rows: Sequence[Row], sets: Sequence[Any], losses: Sequence[Any]) -> dict[str, list[int | None]]:
    """For each goal the place of each row in its set, 1 for the best; none for a row that is not good for it.

    The best gives most of what the goal asks; of two that give the same, it is the one that loses less perplexity.
    """
    names = dict.fromkeys(name for row in rows for name in row.get("goals", {}))
    return {name: _places(name, rows, sets, losses) for name in names}


def best(columns: Mapping[Any, Sequence[Any]]) -> dict[str, list[str]]:
    """Of a table (table.py) the names of the rows that are the best for each goal, with why; one for each set of conditions."""
    by_key = {column.key: values for column, values in columns.items()}
    goals = [key.removeprefix(RANK) for key in by_key if key.startswith(RANK)]
    named = [f"{name}: {why}" for name, why in zip(by_key["name"], by_key["why"], strict=True)]
    return {
        goal: [name for name, place in zip(named, by_key[RANK + goal], strict=True) if place == 1] for goal in goals
    }


def _places(name: str, rows: Sequence[Row], sets: Sequence[Any], losses: Sequence[Any]) -> list[int | None]:
    good = {
        place: (_gives(goal["criteria"]), losses[place] if losses[place] is not None else math.inf)
        for place, row in enumerate(rows)
        if (goal := row.get("goals", {}).get(name)) and goal["verdict"] == "accept"
    }
    places: list[int | None] = [None] * len(rows)
    for place, key in good.items():
        places[place] = 1 + sum(other < key for at, other in good.items() if sets[at] == sets[place])
    return places


def _gives(criteria: list[Row]) -> float:
    """Less is better: the value of the finding that decides, with its sign turned where more is wanted."""
    finding = worst(criteria)
    assert finding, "a goal asks for something besides quality"
    return float(finding["value"]) * (1 if finding["threshold"].startswith("<=") else -1)
