"""What the page draws, as data: which columns make a plot (report.js draws it), and what is drawn without a script."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from qforge.report.table import LATENCIES, Table

DIGITS = 5  # of a number in the page; row.json and the CSV have all


def data(columns: Table) -> dict[str, Any]:
    """The table and the plots for report.js. A plot names columns by their place."""
    keys = [column.key for column in columns]
    return {
        "columns": [
            {**vars(column), "values": [_short(value) for value in values]} for column, values in columns.items()
        ],
        "quality": [keys.index(key) for key in ("kl", "loss", "drop") if key in keys],
        "interval": [keys.index(key) for key in ("low", "high") if key in keys],
        "against": [keys.index(key) for key in [*_fastest(keys), "gb", "bits"] if key in keys],
        "curves": [*_latencies(keys), *_per_user(keys), *_positions(keys)],
    }


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _fastest(keys: list[str]) -> list[str]:
    """Tokens/s at one stream and at the most streams: one batch size is not enough to rank by."""
    streams = sorted(int(key.partition("@")[2]) for key in keys if key.startswith("tps@"))
    return [f"tps@{n}" for n in dict.fromkeys([*streams[:1], *streams[-1:]])]


def _latencies(keys: list[str]) -> list[dict[str, Any]]:
    """Throughput and latencies against the number of streams."""
    axes = [("tokens/s", [("", "tps")])]
    axes += [(f"{name}, ms", [("p50", f"p50_{s}"), ("p95", f"p95_{s}")]) for s, name in LATENCIES.items()]
    curves = [_curve(title, "concurrent requests", lines, keys) for title, lines in axes]
    return [curve for curve in curves if curve["lines"]]


def _per_user(keys: list[str]) -> list[dict[str, Any]]:
    """What the server makes in all against what each of its users gets: 1000 by the median ms per token after the first.

    The number of streams says nothing to a user: two checkpoints are alike for one who waits for the same speed.
    """
    streams = sorted(int(key.partition("@")[2]) for key in keys if key.startswith("user@"))
    points = [(n, keys.index(f"tps@{n}"), keys.index(f"user@{n}")) for n in streams]
    lines = [{"label": "", "points": points}]
    return [{"title": "tokens/s in all", "x": "tokens/s per user", "lines": lines}] if len(points) > 1 else []


def _positions(keys: list[str]) -> list[dict[str, Any]]:
    """Perplexity against the number of tokens before; one plot per text, one line per dtype of the KV cache."""
    stems = dict.fromkeys(key.partition("@")[0] for key in keys if key.startswith("ppl:"))
    plots = []
    for text, group in groupby(stems, key=lambda stem: stem.split(":")[1]):
        lines = [(f"KV cache {stem.split(':')[2]}", stem) for stem in group]
        plots.append({**_curve(f"perplexity of {text}", "tokens before", lines, keys), "log": True})
    return plots


def _curve(title: str, x: str, lines: list[tuple[str, str]], keys: list[str]) -> dict[str, Any]:
    curve = []
    for label, stem in lines:
        points = [(int(m[1]), i) for i, key in enumerate(keys) if (m := re.fullmatch(rf"{re.escape(stem)}@(\d+)", key))]
        if points:
            curve.append({"label": label, "points": sorted(points)})
    return {"title": title, "x": x, "lines": curve}


def bar(criterion: dict[str, Any]) -> dict[str, float] | None:
    """Where value, interval and threshold of a criterion lie on a line from 0 to 100; none where nothing was measured."""
    if criterion["value"] is None:
        return None
    relation, limit = criterion["threshold"].split()[0], float(criterion["threshold"].split()[1])
    ends = [*(criterion["interval"] or ()), criterion["value"], limit]
    low, span = min(ends), max(ends) - min(ends) or 1.0
    place = {"value": criterion["value"], "limit": limit}
    if criterion["interval"]:
        place["low"], place["high"] = criterion["interval"]
    return {"at_least": relation == ">=", **{name: 6 + 88 * (at - low) / span for name, at in place.items()}}


def heat(grid: list[list[float | None]]) -> list[list[float | None]]:
    """Shades from 0 to 1 for a grid of numbers; half-way where all are alike."""
    low, high = span(grid)
    return [[None if v is None else (v - low) / (high - low) if high > low else 0.5 for v in line] for line in grid]


def span(grid: list[list[float | None]]) -> tuple[float, float]:
    """The smallest and the largest number of a grid that has one."""
    values = [value for line in grid for value in line if value is not None]
    return min(values), max(values)


def sensitivity_maps(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Two heat maps for the page: by block, and by what vLLM computes as one."""
    kinds = list(dict.fromkeys(loss["kind"] for loss in measured["parts"]))
    blocks = sorted({loss["block"] for loss in measured["parts"]}, key=lambda block: (str(block) == block, block))
    unit = f"nats per token, over {measured['tokens']:,} tokens of {measured['text']}"
    maps = []
    for key, title in (("alone", "KL to bf16 with only this quantized"), ("saved", "KL saved by leaving it in bf16")):
        cells = {(loss["kind"], loss["block"]): float(f"{loss[key]:.3g}") for loss in measured["parts"]}
        values = [[cells.get((kind, block)) for block in blocks] for kind in kinds]
        maps.append({"title": title, "unit": unit, "leaves": kinds, "blocks": blocks, "values": values})
    return maps
