"""The same checkpoint under one vLLM after another: does it still score and serve as well?

Rows tell of one checkpoint where it was made by one plan (the key of its quantization), lies at one path, or is the original. A
measure is followed where its conditions are the same: KV cache; text, windows and context; machine, options, prompt, answer and
streams. How much memory the server took decides neither scores nor speed, as long as it holds the load.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from qforge.report.names import name_of
from qforge.report.table import Row
from qforge.report.terminal import warn

QUALITY, SPEED = 1.0, 5.0  # percent that may be lost without an alarm
NOT_SERVED = "not served"  # in place of vLLM's version: transformers has scored
MEMORY = ("gpu_memory_utilization", "kv_cache_memory_bytes")  # vLLM's options of how much it takes


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
    """The rows in a folder, at any depth, with their files; a file that cannot be read is told and left out.

    Raises ValueError where there are none.
    """
    found = 0
    for file in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(file.read_text())
        except (OSError, ValueError) as fault:
            warn(f"left out: {file}: no JSON ({fault})")
            continue
        if isinstance(content, dict) and {"measured", "conditions", "machine", "date"} <= content.keys():
            found += 1
            yield str(file.relative_to(folder)), content
    if not found:
        raise ValueError(f"{folder}: no row of a finished run in it; give a folder with row.json files")


def series(
    rows: Iterable[tuple[str, Row]], quality: float = QUALITY, speed: float = SPEED, anew: bool = False
) -> list[Series]:
    """What was measured more than once.

    `quality`, `speed`: percent that a later point may lose without an alarm. `anew`: checkpoints of one recipe and size are
    taken for one, although each row made its own.
    """
    points: dict[tuple[str, str, str], list[Point]] = {}
    names: dict[str, str] = {}
    for file, row in rows:
        identity = _recipe(row) if anew else _identity(row)
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
    return sorted(found, key=_first)


def _first(found: Series) -> tuple[bool, bool, str, str]:
    """In which order a page has them: alarms, then several versions."""
    alarmed, versions = any(point.alarm for point in found.points), {point.vllm for point in found.points}
    return not alarmed, len(versions) == 1, found.checkpoint, found.measure


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
    return str(made or row.get("artifact") or f"{row['model']} {row['method']} {row.get('online') or ''}".strip())


def _recipe(row: Row) -> str:
    """How the checkpoint is made, as far as a row says it: by its name, its size, and what its command sets."""
    said = [word for word in shlex.split(row["command"]) if word.startswith(("calib", "method."))]
    return shlex.join([row["model"], name_of(row), str(row["size"]["bytes"]), *sorted(said)])


def _cache(row: Row) -> str:
    """The KV cache; rows of before 2026-11-29 have its dtype among the engine's options."""
    kv = row.get("kv") or {"name": row["conditions"]["runtime_args"].get("kv_cache_dtype", "auto")}
    return f"KV cache {kv['name']}" + (f" per {kv['strategy']}" if kv.get("strategy") else "")


def _version(row: Row) -> str:
    measured = row["measured"]
    versions = (measured.get("evaluate") or {}).get("versions") or {}
    return str((measured.get("serve") or {}).get("version") or versions.get("vllm") or NOT_SERVED)


def _ordered(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")


def _measures(row: Row) -> Iterator[tuple[str, str, float, float, float]]:
    """Name, conditions, value and its range."""
    conditions, machine, measured = row["conditions"], row["machine"], row["measured"]
    arguments = {name: value for name, value in conditions["runtime_args"].items() if name not in MEMORY}
    options = [f"{name}={value}" for name, value in sorted(arguments.items()) if name != "kv_cache_dtype"]
    cores = f"{machine['cpu']} with {machine['cores']} cores"
    where = ", ".join([*machine["gpus"], cores, conditions["runtime"], *options, _cache(row)])
    for name, text in (measured["evaluate"].get("texts") or {}).items():
        content = f" of {text['sha256'][:8]}" if "sha256" in text else ""  # rows of early versions do not say
        engine = (
            ", by transformers" if _version(row) == NOT_SERVED else ""
        )  # whose arithmetic no version of vLLM changes
        how = f"{text['tokens']} tokens{content}, context {conditions['context']}, {_cache(row)}{engine}"
        yield f"perplexity of {name}", how, text["perplexity"], text["perplexity"], text["perplexity"]
    bench: dict[str, Any] = measured["bench"]
    for streams, run in (bench.get("runs") or {}).items():
        low, high = bench["tokens_per_second_range"][streams]
        how = f"{bench['input_len']} tokens in, {bench['output_len']} out, {where}"
        yield f"tokens/s at {streams}", how, run["output_throughput"], low, high
