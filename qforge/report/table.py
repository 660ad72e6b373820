"""Many rows as one flat table: the same columns for the page, for CSV and for whatever else reads them.

A row is what row.py makes, or what a sweep says of a job that has none: then it may lack all but its name and verdict,
and `failed` says why. bf16 is a row too: where it was only measured as a baseline, it is taken out of a row that has it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from qforge.judge import goals
from qforge.judge.conditions import software
from qforge.machine.identity import deciding
from qforge.report import baseline, pareto, ranks
from qforge.report.names import name_of, other_cache
from qforge.report.positions import by_position
from qforge.report.reasons import why
from qforge.store.timing import alone

Row = dict[str, Any]
Cell = float | str | None
Table = dict["Column", list[Cell]]
VERDICTS = ("baseline", "planned", "sound", "undecided", "not_judged", "unsound", "failed", "refused")
PLACES = {"name": 0, "verdict": 0, "model": 1, "hw": 1, "runtime": 1, "why": 3}  # of shown columns; all others between
LOSS = "perplexity_increase_percent"  # the metric whose interval bounds the perplexity lost
LATENCIES = {"ttft": "time to first token", "tpot": "time per output token", "e2el": "time per request"}


@dataclass(frozen=True)
class Column:
    """One column of the table. `better` says which end is; `shown` whether people see it without asking."""

    key: str
    label: str
    unit: str = ""
    decimals: int | None = None  # none: it is text
    better: str = ""  # low, high
    shown: bool = True


def with_baselines(rows: list[Row]) -> list[Row]:
    """The rows, best first, and in front of them bf16 once for each set of conditions that has no row of it."""
    own = {conditions_of(row) for row in rows if is_baseline(row)}
    baselines: dict[str, Row] = {}
    for row in rows:
        if row.get("baseline") and conditions_of(row) not in own:
            baselines.setdefault(conditions_of(row), _baseline(row))
    return [*baselines.values(), *sorted(rows, key=_rank)]


def is_baseline(row: Row) -> bool:
    """Whether it is bf16 itself or another baseline, measured, and no checkpoint that was judged against it."""
    others = row["criteria"] or row.get("failed") or row.get("planned") or other_cache(row)
    return row["method"] in baseline.NAMES and not others


def verdict_of(row: Row) -> str:
    """The verdict as people see it: of what was judged, whether it is sound; bf16 itself is not judged."""
    if is_baseline(row):
        return "baseline"
    return goals.word(row) if "sound" in row else str(row["verdict"])


def _baseline(row: Row) -> Row:
    size = {**row["size"], "bytes": baseline.bytes_of(row), "quantized_bits_per_weight": None}
    size["bits_per_weight"] = 8 * size["bytes"] / size["parameters"]
    return {
        **row, "method": baseline.name_of(row), "online": None, "experiment": None, "group_size": None, "exempt": {},
        "size": size, "quantize": None, "measured": row["baseline"], "criteria": [], "artifact": None,
        "command": "", "kv": None, **goals.not_judged("it is the original"),
    }  # fmt: skip


def _rank(row: Row) -> tuple[int, float, float]:
    return VERDICTS.index(verdict_of(row)), dict(_quality(row)).get("loss", math.inf), -(_throughput(row) or 0)


def _throughput(row: Row) -> float | None:
    """Tokens/s at the most streams that were measured."""
    runs = _runs(row)
    return float(runs[max(runs, key=int)]["output_throughput"]) if runs else None


def conditions_of(row: Row) -> str:
    """A short name of what two rows must share to be compared: model, machine, runtime, versions, lengths; not the method."""
    conditions = {k: v for k, v in row.get("conditions", {}).items() if k != "calibrated_on"}
    shared = [row["model"], conditions, deciding(row.get("machine") or {}), software(row.get("measured") or {})]
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:6]


def table(rows: list[Row]) -> Table:
    """The values by column, of every column that a row has a value for; those that are shown come first.

    bf16's own losses, which are none, are there only where another row's were measured.
    """
    columns: Table = {}
    for index, row in enumerate(rows):
        for column, value in _cells(row):
            values = columns.setdefault(column, [])
            values += [None] * (index - len(values)) + [value]
    for values in columns.values():
        values += [None] * (len(rows) - len(values))
    others = [not is_baseline(row) for row in rows]
    for column in QUALITY.values():
        if not any(value is not None for value, other in zip(columns.get(column, []), others, strict=False) if other):
            columns.pop(column, None)
    by_key = {column.key: values for column, values in columns.items()}
    columns[Column("front", "Pareto front")] = pareto.fronts(by_key)
    places = ranks.ranks(rows, by_key["conditions"], by_key.get("loss", [None] * len(rows)))
    columns |= {Column(ranks.RANK + g, f"rank for {g}", "", 0, "low", False): list(of) for g, of in places.items()}
    differing = {c for c in columns if c.key in ("model", "hw", "runtime") and len(set(columns[c]) - {None}) > 1}
    ends = {f"tps@{n}" for row in rows if (runs := _runs(row)) for n in (min(runs, key=int), max(runs, key=int))}
    labels = {}
    for column, values in columns.items():
        visible = column.key in ends if column.key.startswith("tps@") else column.shown or column in differing
        labels[replace(column, shown=visible)] = values
    return {column: labels[column] for column in sorted(labels, key=lambda c: (not c.shown, PLACES.get(c.key, 2)))}


def same(rows: list[Row]) -> list[list[str]]:
    """The names of rows, with their folders, that are one and the same checkpoint, because their plans are equal."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if quantized := row.get("quantize"):
            where = f" ({row['folder']})" if "folder" in row else ""
            names.setdefault(quantized["key"], []).append(name_of(row) + where)
    return [of for of in names.values() if len(of) > 1]


def _runs(row: Row) -> dict[str, Any]:
    runs: dict[str, Any] = ((row.get("measured") or {}).get("bench") or {}).get("runs", {})
    return runs


def _cells(row: Row) -> Iterator[tuple[Column, Cell]]:
    conditions, size = row.get("conditions", {}), row.get("size")
    yield Column("name", "row"), name_of(row)
    yield Column("verdict", "verdict"), verdict_of(row)
    if gate := row.get("gate"):
        yield Column("gate", "by gate", shown=False), f"{gate['name']}: {row['verdict']}"
    for key, value in _quality(row):
        yield QUALITY[key], value
    if size:
        yield Column("bits", "bits per weight", "", 2, "low"), size["bits_per_weight"]
        yield Column("gb", "weights", "GB", 3, "low"), size["bytes"] / 1e9
    yield from _speed(row)
    yield Column("why", "why"), why(row)
    for key in ("model", "method"):
        yield Column(key, key, shown=False), row[key]
    yield Column("group", "group size", "", 0, shown=False), row.get("group_size")
    yield Column("exempt", "exempt", shown=False), " ".join(row.get("exempt", {}))
    failed = bool(row.get("failed"))  # then nothing was measured under any conditions
    yield Column("conditions", "conditions", shown=False), None if failed else conditions_of(row)
    for key in ("hw", "runtime"):
        yield Column(key, key, shown=False), conditions.get(key)
    yield Column("date", "date", shown=False), row.get("date")
    for key in ("name", "question", "expect"):
        answer = (row.get("experiment") or {}).get(key)
        yield Column("experiment" if key == "name" else key, key, shown=False), answer
    cost = alone(row["time"]) if "time" in row else None
    yield Column("seconds", "seconds it costs by itself", "s", 0, shown=False), cost
    yield Column("tps", "tokens/s at the most streams", "", 1, "high", shown=False), _throughput(row)
    yield Column("folder", "folder", shown=False), row.get("folder")
    yield from _long(row)
    yield Column("command", "command", shown=False), row.get("command")


QUALITY = {
    "loss": Column("loss", "perplexity lost, worst text", "%", 2, "low"),
    "low": Column("low", "perplexity lost, lower bound", "%", 2, shown=False),
    "high": Column("high", "perplexity lost, upper bound", "%", 2, shown=False),
    "kl": Column("kl", "KL to bf16, worst text", "nats/token", 4, "low"),
    "agreed": Column("agreed", "same first choice as bf16, worst text", "%", 1, "high"),
    "drop": Column("drop", "task score lost, worst task", "points", 1, "low"),
}


def _quality(row: Row) -> Iterator[tuple[str, float]]:
    """Losses against the row's own baseline; the worst text or task, since a gate asks each of them."""
    if is_baseline(row):
        yield from (("loss", 0.0), ("drop", 0.0), ("kl", 0.0), ("agreed", 100.0))  # against itself
        return
    own, reference = (((row.get(side) or {}).get("evaluate") or {}) for side in ("measured", "baseline"))
    if "texts" in own and "texts" in reference:
        lost = {n: 100 * (t["perplexity"] / reference["texts"][n]["perplexity"] - 1) for n, t in own["texts"].items()}
        if lost:
            worst = max(lost, key=lambda name: lost[name])
            yield "loss", lost[worst]
            bounds = {c["of"]: c["interval"] for c in row["sound"]["criteria"] if c["metric"] == LOSS}
            yield from zip(("low", "high"), bounds.get(worst) or (), strict=False)
        judged = [(n, m) for n, t in own["tasks"].items() if (m := t["judged"]) in reference["tasks"][n]["metrics"]]
        drops = [reference["tasks"][n]["metrics"][m] - own["tasks"][n]["metrics"][m] for n, m in judged]
        if drops:
            yield "drop", 100 * max(drops)
    divergence = ((row.get("measured") or {}).get("divergence") or {}).get("texts")
    if divergence:
        yield "kl", max(text["kl"] for text in divergence.values())
        yield "agreed", 100 * min(text["top1_agreement"] for text in divergence.values())


def _speed(row: Row) -> Iterator[tuple[Column, Cell]]:
    bench = (row.get("measured") or {}).get("bench") or {}
    for streams, run in bench.get("runs", {}).items():
        label = f"tokens/s, {streams} stream{'s' * (streams != '1')}"
        yield Column(f"tps@{streams}", label, "", 1, "high"), run["output_throughput"]
        if ms := run.get("p50_tpot_ms"):
            yield Column(f"user@{streams}", f"tokens/s per user, {streams} at once", "", 1, "high", False), 1000 / ms
        for short, name in LATENCIES.items():
            for p in ("p50", "p95", "p99"):
                if f"{p}_{short}_ms" in run:
                    column = Column(f"{p}_{short}@{streams}", f"{name}, {p}, at {streams}", "ms", 1, "low", False)
                    yield column, run[f"{p}_{short}_ms"]
        if "gpu_joules_per_token" in run:
            energy = Column(f"joules@{streams}", f"energy at {streams}", "MJ per million tokens", 3, "low")
            yield energy, run["gpu_joules_per_token"]  # which is the same number
            yield Column(f"watts@{streams}", f"power at {streams}", "W", 0, "", False), run["gpu_watts"]
    if "resident_gib" in bench:
        yield Column("resident", "memory of the server", "GiB", 2, "low", False), bench["resident_gib"]


def _long(row: Row) -> Iterator[tuple[Column, Cell]]:
    """Perplexity by position in the longest windows there are, for the KV cache as served and for each other dtype."""
    for text, dtype, positions in by_position(row):
        for start, tokens, loss in zip(positions["from"], positions["tokens"], positions["loss"], strict=True):
            if tokens:
                key, label = f"ppl:{text}:{dtype}@{start}", f"perplexity of {text} from token {start}, KV cache {dtype}"
                yield Column(key, label, "", 2, "low", False), math.exp(min(loss / tokens, 700))
