"""The same checkpoint under one vLLM after another: does it still score and serve as well?

Rows tell of one checkpoint where it was made by one plan (the key of its quantization), lies at one path, or is the original. A
measure is followed where its conditions are the same: text, windows and context; machine, options, prompt, answer and streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from qforge.json_files import read_json
from qforge.report.table import Row, name_of

QUALITY, SPEED = 1.0, 5.0  # percent that may be lost before anybody is told


@dataclass(frozen=True)
class Point:
    """A measure in one row. `low` and `high`: the ends of its repeats, equal where there was one."""

    date: str
    vllm: str
    value: float
    low: float
    high: float
    file: str
    alarm: str = ""  # what is worse than in the row before it


@dataclass(frozen=True)
class Series:
    """A measure of one checkpoint under the same conditions, in the order of date and version."""

    checkpoint: str
    measure: str
    conditions: str
    points: list[Point]


def read(folder: Path) -> Iterator[tuple[str, Row]]:
    """The rows in a folder, at any depth, with their files. Raises ValueError where there are none."""
    found = 0
    for file in sorted(folder.rglob("*.json")):
        content = read_json(file)
        if isinstance(content, dict) and {"measured", "conditions", "machine", "date"} <= content.keys():
            found += 1
            yield str(file.relative_to(folder)), content
    if not found:
        raise ValueError(f"{folder}: no row of a finished run in it; give a folder with row.json files")


def series(rows: Iterable[tuple[str, Row]], quality: float = QUALITY, speed: float = SPEED) -> list[Series]:
    """What was measured more than once. `quality`, `speed`: percent that a later point may lose without an alarm."""
    points: dict[tuple[str, str, str], list[Point]] = {}
    names: dict[str, str] = {}
    for file, row in rows:
        identity = _identity(row)
        names.setdefault(identity, f"{row['model']}, {name_of(row)}")
        for measure, conditions, value, low, high in _measures(row):
            point = Point(row["date"], _version(row), value, low, high, file)
            points.setdefault((identity, measure, conditions), []).append(point)
    found = []
    for (identity, measure, conditions), measured in points.items():
        if len(measured) > 1:
            ordered = sorted(measured, key=lambda p: (p.date, _ordered(p.vllm), p.file))
            least = quality if measure.startswith("perplexity") else speed
            found.append(Series(names[identity], measure, conditions, _alarmed(ordered, measure, least)))
    return sorted(found, key=lambda s: (not any(p.alarm for p in s.points), s.checkpoint, s.measure))


def _alarmed(points: list[Point], measure: str, least: float) -> list[Point]:
    """The points, with what is worse than just before."""
    first, *later = points
    told = [first]
    for before, point in zip(points, later, strict=False):
        change = 100 * (point.value / before.value - 1)
        lower_is_better = measure.startswith("perplexity")
        lost, apart = (change, True) if lower_is_better else (-change, point.high < before.low)
        said = f"{change:+.1f} % since {before.date}, vLLM {before.vllm}" if lost > least and apart else ""
        told.append(Point(point.date, point.vllm, point.value, point.low, point.high, point.file, said))
    return told


def _identity(row: Row) -> str:
    """Of the checkpoint."""
    made = (row.get("quantize") or {}).get("key")
    return str(made or row.get("artifact") or f"{row['model']} {row['method']}")


def _version(row: Row) -> str:
    measured = row["measured"]
    versions = (measured.get("evaluate") or {}).get("versions") or {}
    return str((measured.get("serve") or {}).get("version") or versions.get("vllm") or "not served")


def _ordered(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")


def _measures(row: Row) -> Iterator[tuple[str, str, float, float, float]]:
    """Name, conditions, value and its range."""
    conditions, machine, measured = row["conditions"], row["machine"], row["measured"]
    options = [f"{name}={value}" for name, value in sorted(conditions["runtime_args"].items())]
    where = ", ".join(
        [*machine["gpus"], f"{machine['cpu']} with {machine['cores']} cores", conditions["runtime"], *options]
    )
    for name, text in (measured["evaluate"].get("texts") or {}).items():
        content = f" of {text['sha256'][:8]}" if "sha256" in text else ""  # rows of early versions do not say
        how = f"{text['tokens']} tokens{content}, context {conditions['context']}"
        yield f"perplexity of {name}", how, text["perplexity"], text["perplexity"], text["perplexity"]
    bench: dict[str, Any] = measured["bench"]
    for streams, run in (bench.get("runs") or {}).items():
        low, high = bench["tokens_per_second_range"][streams]
        how = f"{bench['input_len']} tokens in, {bench['output_len']} out, {where}"
        yield f"tokens/s at {streams}", how, run["output_throughput"], low, high
