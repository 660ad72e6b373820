"""After a sweep: one report of all its rows, with those that failed or were refused.

A sweep is a folder of job folders, each with a row.json, whatever started the jobs and wherever they ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qforge.json_files import read_json, write_json
from qforge.judge import goals
from qforge.report import pages, ranks, table, terminal, unfinished
from qforge.report.table import Row
from qforge.store.timing import alone

Stamps = dict[Path, tuple[int, int]]  # which file it is and when it was written


def stamps(folder: Path) -> Stamps:
    """What tells the files of an earlier sweep in the same folder from those that this one will write there."""
    return {file: _stamp(file) for job in folder.glob("*") for file in _signs(job) if file.exists()}


def _signs(job: Path) -> tuple[Path, Path]:
    """The files of a job that say how it ended and, written by Hydra, that it began."""
    return job / "row.json", job / ".hydra" / "config.yaml"


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def rows(folder: Path, earlier: Stamps | None = None) -> Iterator[Row]:
    """The row of every job in the folder of a sweep, in the order of the jobs. Of a job that died, why one thinks so.

    What has the stamps of `earlier` is of a sweep that had the same folder before: no job of this one.
    """
    written = {file for file, stamp in stamps(folder).items() if (earlier or {}).get(file) != stamp}
    jobs = {file.parent if file.name == "row.json" else file.parents[1] for file in written}
    for job in sorted(jobs, key=lambda f: (not f.name.isdigit(), int(f.name) if f.name.isdigit() else 0, f.name)):
        if job / "row.json" in written:
            yield {**read_json(job / "row.json"), "folder": job.name}
        elif unfinished.ends_with_a_row(job):
            yield {**unfinished.row(job, "failed", _last_word(job)), "folder": job.name}
        elif planned := unfinished.planned(job):
            yield {**planned, "folder": job.name}


def _last_word(job: Path) -> str:
    logs = sorted(job.glob("*.log"), key=lambda log: log.stat().st_mtime)
    where = f"the last log is {logs[-1].name}" if logs else "no stage had started"
    return f"the job ended without a result, killed or crashed; {where}. Run the same command again to continue"


def report(folder: Path, sweep_rows: list[Row], seconds: float) -> None:
    """report.html with its CSV and JSON, sweep.json, and a table in the terminal; the table alone where all is planned."""
    if any(r["verdict"] == "planned" for r in sweep_rows):
        return terminal.ranking(table.table(table.with_baselines(sweep_rows)))
    columns = pages.html(folder / "report.html", sweep_rows)
    keys = [column.key for column in columns]
    ranked = [dict(zip(keys, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    sweep = {
        "seconds": round(seconds, 1), "alone": round(sum(alone(r["time"]) for r in sweep_rows if "time" in r), 1),
        "verdicts": Counter(map(table.verdict_of, sweep_rows)), "best": ranks.best(columns), "same": table.same(sweep_rows),
        "rows": [{key: r[key] for key in ("folder", "name", "verdict", "front", "why")} for r in ranked if r["folder"]],
    }  # fmt: skip
    write_json(folder / "sweep.json", sweep)
    terminal.sweep(columns, sweep, folder)


def exit_code(sweep_rows: list[Row]) -> int:
    """1 if a row failed, 2 if all were refused, 3 if of those that were judged none has the gate that must hold, else 0:
    combinations that cannot work, or are worse, are part of a matrix."""
    verdicts = {r["verdict"] for r in sweep_rows}
    if "failed" in verdicts:
        return 1
    if verdicts == {"refused"}:
        return 2
    return 3 if any(map(goals.missed, sweep_rows)) and "accept" not in verdicts else 0
