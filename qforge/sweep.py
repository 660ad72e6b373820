"""After a sweep: one report of all its rows, with those that failed or were refused.

A sweep is a folder of job folders, each with a row.json, whatever started the jobs and wherever they ran.
"""

from __future__ import annotations

import atexit
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from qforge.checkpoint import read_json
from qforge.report import pages, table, terminal, unfinished
from qforge.report.table import Row
from qforge.request import to_json
from qforge.spent import alone

ended: list[int] = []  # the exit code of the sweep of this process, once it is reported


class Report(Callback):
    """Hydra's callback, named in conf/config.yaml."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.folder, self.started = Path(config.hydra.sweep.dir).absolute(), time.monotonic()
        atexit.register(self.finish)  # Hydra tells of no end by an exception or by Ctrl-C; what there is, is reported

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        atexit.unregister(self.finish)
        self.finish()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """A bug of ours is a row as well; Hydra prints it and goes on."""
        if job_return.status is JobStatus.FAILED:
            error = job_return._return_value
            unfinished.leave(Path(config.hydra.runtime.output_dir), "failed", f"{type(error).__name__}: {error}")

    def finish(self) -> None:
        """The report, if there is any row."""
        if found := list(rows(self.folder)):
            report(self.folder, found, time.monotonic() - self.started)
            ended.append(exit_code(found))


def rows(folder: Path) -> Iterator[Row]:
    """The row of every job in the folder of a sweep, in the order of the jobs. Of a job that died, why one thinks so."""
    jobs = [f for f in folder.glob("*") if (f / "row.json").exists() or (f / ".hydra").is_dir()]
    for job in sorted(jobs, key=lambda f: (not f.name.isdigit(), int(f.name) if f.name.isdigit() else 0, f.name)):
        if (job / "row.json").exists():
            yield {**read_json(job / "row.json"), "folder": job.name}
        elif unfinished.ends_with_a_row(job):
            yield {**unfinished.row(job, "failed", _last_word(job)), "folder": job.name}
        elif planned := unfinished.planned(job):
            yield {**planned, "folder": job.name}


def _last_word(job: Path) -> str:
    logs = sorted(job.glob("*.log"), key=lambda log: log.stat().st_mtime)
    where = f"the last it wrote is {logs[-1].name}" if logs else "it had begun no stage"
    return f"the job ended without a result, killed or crashed; {where}. The same command goes on from there"


def report(folder: Path, found: list[Row], seconds: float) -> None:
    """report.html with its CSV and JSON, sweep.json, and a table in the terminal; the table alone where all is planned."""
    ranked = table.with_baselines(found)
    if any(r["verdict"] == "planned" for r in found):
        return terminal.ranking(ranked)
    pages.html(folder / "report.html", found)
    sweep = {
        "seconds": round(seconds, 1), "alone": round(sum(alone(r["time"]) for r in found if "time" in r), 1),
        "verdicts": Counter(r["verdict"] for r in found), "same": table.same(found),
        "rows": [{"folder": r["folder"], "name": table.name_of(r), "verdict": r["verdict"]} for r in ranked if "folder" in r],
    }  # fmt: skip
    (folder / "sweep.json").write_text(to_json(sweep))
    terminal.sweep(ranked, sweep, folder)


def exit_code(found: list[Row]) -> int:
    """1 if a row failed, 2 if all were refused, else 0: combinations that cannot work are part of a matrix."""
    verdicts = {r["verdict"] for r in found}
    return 1 if "failed" in verdicts else 2 if verdicts == {"refused"} else 0
