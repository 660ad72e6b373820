"""Which rows no other row beats: at least as good in quality, and better in speed or in size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Point = tuple[float, float]


def front(points: Iterable[Point]) -> set[Point]:
    """The points that no other one beats, where less is better in both."""
    members, best = set(), math.inf
    for point in sorted(set(points)):
        if point[1] < best:
            best = point[1]
            members.add(point)
    return members


def on_front(first: Sequence[float | None], second: Sequence[float | None], sets: Sequence[str]) -> list[bool]:
    """For each row whether it is on the front of its set; of what was not measured it is not. Less is better."""
    points: list[Point | None] = [
        (a, b) if a is not None and b is not None else None for a, b in zip(first, second, strict=True)
    ]
    members: dict[str, list[Point]] = defaultdict(list)
    for name, point in zip(sets, points, strict=True):
        if point:
            members[name].append(point)
    fronts = {name: front(of) for name, of in members.items()}
    return [point is not None and point in fronts[name] for name, point in zip(sets, points, strict=True)]


def fronts(values: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Of each row, against which goals no other row of the same conditions beats it in quality; `values`: by column."""
    nothing = [None] * len(values["name"])
    loss, sets = values.get("loss", nothing), values["conditions"]
    speed = [-rate if rate else None for rate in values["tps"]]
    goals = {"speed": on_front(loss, speed, sets), "size": on_front(loss, values.get("gb", nothing), sets)}
    return [", ".join(goal for goal, on in goals.items() if on[index]) for index in range(len(nothing))]
