"""What a run leaves behind for people: report.html, and the artifact with its model card and provenance."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from qforge.json_files import write_json, write_text
from qforge.judge import goals
from qforge.judge.metrics import METRICS
from qforge.plan import support_matrix
from qforge.report import baseline, curve, engines, figures, names, ranks, reasons, single, table, voices
from qforge.report.table import Row, Table

TEMPLATES = Path(__file__).with_name("templates")
DETAILS = 50  # rows that a page describes one by one
OF_BENCH = {
    "output_throughput": "tokens/s", "total_token_throughput": "tokens/s, prompts included",
    "request_throughput": "requests/s", "peak_resident_gib": "peak memory of the server, GiB",
    "gpu_peak_gib": "peak memory of the GPU, GiB", "gpu_watts": "power of the GPUs, W",
    "gpu_joules_per_token": "energy, MJ per million tokens out (J per token)",
}  # fmt: skip


def html(file: Path, rows: list[Row]) -> Table:
    """The report of one run or of many: one page that needs nothing else, and its table beside it, which is returned."""
    columns = table.table(table.with_baselines(rows))
    _write(file, columns)
    failed = [row for row in rows if row.get("failed")]
    page = render(
        "report.html.j2", escape=True, rows=rows, title=_title(rows), summary=_summary(rows), failed=failed,
        whole=[row for row in rows if not row.get("failed")], details=DETAILS,
        spoken=partial(voices.spoken, folder=file.parent, embedded=len(rows) == 1),
        counts=Counter(map(table.verdict_of, rows)).most_common(),
        engines=engines.compared(rows), same=table.same(rows), best=ranks.best(columns),
        cautions=dict.fromkeys(row["caution"] for row in rows if row.get("caution")),
        data=Markup(json.dumps(figures.data(columns), separators=(",", ":")).replace("<", "\\u003c")),
    )  # fmt: skip
    write_text(file, page)
    return columns


def _write(page: Path, columns: Table) -> None:
    """All columns, shown or not, unrounded, beside the page: as CSV, and as JSON with one object per row."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow([f"{c.key} [{c.unit}]" if c.unit else c.key for c in columns])
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(page.with_suffix(".csv"), lines.getvalue())
    keys = [column.key for column in columns]
    flat = [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    write_json(page.with_suffix(".json"), flat)


def _title(rows: list[Row]) -> str:
    models = sorted({row["model"] for row in rows})
    if len(rows) == 1:
        return f"{models[0]}, {names.name_of(rows[0])}"
    return f"{len(rows)} rows of {', '.join(models[:3])}" + (f" and {len(models) - 3} more" if len(models) > 3 else "")


def _summary(rows: list[Row]) -> str:
    dates = sorted({row["date"] for row in rows if row.get("date")})
    where = {f"{c['runtime']} on {c['hw']}" for row in rows if (c := row.get("conditions"))}
    return " · ".join([*(" to ".join(dict.fromkeys([dates[0], dates[-1]])) for _ in dates[:1]), *sorted(where)[:6]])


def render(template: str, escape: bool, **context: Any) -> str:
    """A template of this folder, filled in."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=escape,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value: "" if value is None else f"{value:.4g}",
        "megabytes": lambda count: f"{count / 1e6:,.1f} MB",
        "metric": _metric,
        "unit": lambda metric: METRICS[metric].unit,
        "bar": figures.bar,
        "drawn": curve.drawn,
        "heat": figures.heat,
        "span": figures.span,
        "why": reasons.why,
        "of_cache": reasons.of_cache,
        "kernels": support_matrix.kernels,
        "name": names.name_of,
        "verdict": table.verdict_of,
        "criteria": goals.criteria,
        "costs": single.costs,
        "next_step": single.next_step,
        "baseline": baseline.name_of,
        "baseline_bytes": baseline.bytes_of,
        "sign": reasons.sign,
        "mean": lambda cells: fmean(value for line in cells for value in line),
    }
    return environment.get_template(template).render(**context)


def _metric(name: str) -> str:
    """A number of bench, for people: p95_ttft_ms is "time to first token, p95, ms"."""
    kind, _, rest = name.partition("_")
    short = rest.removesuffix("_ms")
    return f"{table.LATENCIES[short]}, {kind}, ms" if short in table.LATENCIES else OF_BENCH.get(name, name)
