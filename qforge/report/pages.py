"""What a run leaves behind for people: report.html, and the artifact with its model card and provenance."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from qforge import compat, provenance
from qforge.comparisons import METRICS
from qforge.config import Job
from qforge.plan import Plan
from qforge.report import figures, reasons, table
from qforge.report.table import Row, Table
from qforge.request import to_json, without_secrets

TEMPLATES = Path(__file__).with_name("templates")
RESULTS = (
    "plan",
    "sensitivity",
    "calibrate",
    "quantize",
    "inspect",
    "probe",
    "serve",
    "evaluate",
    "divergence",
    "bench",
    "verdict",
    "row",
)
DETAILS = 50  # rows that a page describes one by one
OF_BENCH = {
    "output_throughput": "tokens/s", "total_token_throughput": "tokens/s, prompts included",
    "request_throughput": "requests/s", "peak_resident_gib": "peak memory of the server, GiB",
    "gpu_peak_gib": "peak memory of the GPU, GiB", "gpu_watts": "power, W", "gpu_joules_per_token": "energy per token, J",
}  # fmt: skip


def html(file: Path, rows: list[Row]) -> Table:
    """The report of one run or of many: one page that needs nothing else, and its table beside it, which is returned."""
    columns = table.table(table.with_baselines(rows))
    _write(file, columns)
    failed = [row for row in rows if row.get("failed")]
    page = _render(
        "report.html.j2", escape=True, rows=rows, title=_title(rows), summary=_summary(rows), failed=failed,
        whole=[row for row in rows if not row.get("failed")], details=DETAILS,
        counts=Counter(map(table.verdict_of, rows)).most_common(),
        same=table.same(rows), cautions=dict.fromkeys(row["caution"] for row in rows if row.get("caution")),
        data=Markup(json.dumps(figures.data(columns), separators=(",", ":")).replace("<", "\\u003c")),
    )  # fmt: skip
    partial = file.with_suffix(".partial")
    partial.write_text(page)
    partial.rename(file)
    return columns


def _write(page: Path, columns: Table) -> None:
    """All columns, shown or not, unrounded, beside the page: as CSV, and as JSON with one object per row."""
    with page.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([f"{c.key} [{c.unit}]" if c.unit else c.key for c in columns])
        writer.writerows(zip(*columns.values(), strict=True))
    keys = [column.key for column in columns]
    flat = [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    page.with_suffix(".json").write_text(json.dumps(flat, indent=1, allow_nan=False) + "\n")


def _title(rows: list[Row]) -> str:
    models = sorted({row["model"] for row in rows})
    if len(rows) == 1:
        return f"{models[0]}, {table.name_of(rows[0])}"
    return f"{len(rows)} rows of {', '.join(models[:3])}" + (f" and {len(models) - 3} more" if len(models) > 3 else "")


def _summary(rows: list[Row]) -> str:
    dates = sorted({row["date"] for row in rows if row.get("date")})
    where = {f"{c['runtime']} on {c['hw']}" for row in rows if (c := row.get("conditions"))}
    return " · ".join([*(" to ".join(dict.fromkeys([dates[0], dates[-1]])) for _ in dates[:1]), *sorted(where)[:6]])


def artifact(folder: Path, stored: Path, job: Job, plan: Plan, row: Row) -> None:
    """<folder>/artifact: the checkpoint, complete in itself, with README.md and qforge/. Appears by rename.

    Weights are hard links to the store where the file system allows it, and read-only: no second copy. What an editor
    may touch is copied.
    """
    final, partial = folder / "artifact", folder / "artifact.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(stored, partial, copy_function=_link)
    (partial / "README.md").write_text(_render("card.md.j2", escape=False, row=row))
    notes = partial / "qforge"
    notes.mkdir()
    (notes / "job.json").write_text(to_json(without_secrets(job)))
    for name in RESULTS:
        if (folder / f"{name}.json").exists():
            shutil.copyfile(folder / f"{name}.json", notes / f"{name}.json")
    (partial / provenance.HASHES).write_text(to_json(provenance.file_hashes(partial)))
    partial.rename(final)


def clear(folder: Path) -> None:
    """Remove what an earlier run left in the same folder: nothing old may look like a result of this one."""
    for name in RESULTS:
        for file in (folder / f"{name}.json", folder / f"bf16-{name}.json"):
            file.unlink(missing_ok=True)
    for report in ("report.html", "report.csv", "report.json"):
        (folder / report).unlink(missing_ok=True)
    shutil.rmtree(folder / "artifact", ignore_errors=True)


def _link(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system
    shutil.copyfile(source, target)


def _render(template: str, escape: bool, **context: Any) -> str:
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
        "heat": figures.heat,
        "span": figures.span,
        "why": reasons.why,
        "kernels": compat.kernels,
        "name": table.name_of,
        "verdict": table.verdict_of,
        "sign": reasons.sign,
        "mean": lambda cells: fmean(value for line in cells for value in line),
    }
    return environment.get_template(template).render(**context)


def _metric(name: str) -> str:
    """A number of bench, for people: p95_ttft_ms is "time to first token, p95, ms"."""
    kind, _, rest = name.partition("_")
    short = rest.removesuffix("_ms")
    return f"{table.LATENCIES[short]}, {kind}, ms" if short in table.LATENCIES else OF_BENCH.get(name, name)
