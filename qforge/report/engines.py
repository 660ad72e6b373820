"""The same model by transformers and by vLLM, side by side: what each takes, and how fast it answers."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from qforge.report import names, table
from qforge.report.table import Row

LIBRARY = "transformers generate()"  # the tool of stages/generate.py


def compared(rows: list[Row]) -> list[dict[str, Any]]:
    """A line per row that was timed, of each model and hardware on which both were; transformers first, then the fastest.

    `gib` is the most that was seen while it answered, on the GPU where there is one, and none of rows from before it was
    looked at; `rate` is tokens/s at `streams`, the fewest that all lines of the model have, `gain` over the first line's.
    """
    timed = [
        row for row in table.with_baselines(rows) if not row.get("failed") and row["measured"]["bench"].get("runs")
    ]
    found = []
    for _, group in groupby(sorted(timed, key=_place), _place):
        alike = list(group)
        tools = {row["measured"]["bench"].get("tool") == LIBRARY for row in alike}
        common = set.intersection(*(set(row["measured"]["bench"]["runs"]) for row in alike))
        if len(tools) == 2 and common:
            lines = [_line(row, min(common, key=int)) for row in alike]
            lines.sort(
                key=lambda line: (line["engine"] != "transformers", line["engine"] != "transformers" and -line["rate"])
            )
            found += [{**line, "gain": line["rate"] / lines[0]["rate"]} for line in lines]
    return found


def _place(row: Row) -> tuple[str, str]:
    return row["model"], row["conditions"]["hw"]


def _line(row: Row, streams: str) -> dict[str, Any]:
    bench, serve = row["measured"]["bench"], row["measured"]["serve"]
    run = bench["runs"][streams]
    return {
        "model": row["model"],
        "hw": row["conditions"]["hw"],
        "engine": "transformers" if bench.get("tool") == LIBRARY else f"vLLM {serve.get('version', '')}".strip(),
        "method": names.name_of(row),
        "weights_gib": serve.get("weights_gib"),
        "gib": run.get("gpu_peak_gib", run.get("peak_resident_gib")),
        "streams": int(streams),
        "rate": run["output_throughput"],
    }
