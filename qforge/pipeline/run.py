"""One job in one folder: its store, its clock, the processes of its stages. What the stages do is in files of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from qforge.config.job import Job
from qforge.console import print_reused
from qforge.envs.process import Environment
from qforge.envs.request import Request
from qforge.envs.stage import run_stage
from qforge.envs.turns import waited
from qforge.json_files import write_json
from qforge.models import checkpoint
from qforge.runtimes.server import Server
from qforge.store import results
from qforge.store.results import seconds
from qforge.store.timing import Time

QUANT_ENV = "quant"  # converts and tokenizes
EVAL_ENV = "quant"  # holds lm-eval and the tokenizers


class Run:
    """One job in one folder, and the time it takes. The baseline of a run is a Run of its own, with a prefix, beside it."""

    def __init__(self, job: Job, folder: Path, prefix: str = "", time: Time | None = None) -> None:
        self.job, self.folder, self.prefix, self.time = job, folder, prefix, time or Time()
        self.store = results.of(job)
        folder.mkdir(parents=True, exist_ok=True)

    def beside(self, job: Job, prefix: str = "") -> Run:
        """Another job that is part of this run."""
        return Run(job, self.folder, prefix, self.time)

    def write(self, name: str, content: Any) -> None:
        """A result file of the run, complete or absent."""
        write_json(self.folder / f"{self.prefix}{name}", content)

    def fingerprint(self, folder: Path) -> dict[str, Any]:
        """What a checkpoint is, without reading all of it: small files whole, weights by header, size and time."""
        checkpoint.headers(folder)  # refuses a damaged one here, with its own message
        weights = {f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in checkpoint.weight_files(folder)}
        return {"files": checkpoint.small_files(folder), "weights": weights}

    def get(self, stage: str, key: Any, build: Callable[[Path], None], detail: str) -> Path:
        """The result for `key`, from the store or built now."""
        started = monotonic()
        folder, reused = self.store.get(stage, key, build, f"{self.job.model.name}, {detail}", lambda: self.time.waited)
        if reused:
            self.time.waited += monotonic() - started
            self.reuse(stage, folder, detail)
        else:
            self.time.spend(f"{self.prefix}{stage}", f"{stage}/{folder.name}", seconds(folder))
        return folder

    def reuse(self, stage: str, folder: Path, detail: str) -> None:
        """Say, and count, that a result was there already."""
        print_reused(f"{self.prefix}{stage}", f"{detail}, {folder.name}")
        self.time.save(f"{self.prefix}{stage}", f"{stage}/{folder.name}", seconds(folder))

    def stage(
        self, name: str, where: Environment, out: Path, feed: Callable[[str], None], server: Server | None = None,
        **inputs: Any,
    ) -> None:  # fmt: skip
        """Run a stage's process; its log lies in the run's folder."""
        log = self.folder / f"{self.prefix}{name}.log"
        client = (server.api_key, server.process) if server else ()
        request = Request(self.job, str(out), server=server.base_url if server else None, **inputs)
        run_stage(name, where, request, log, feed, *client)
        self.time.waited += waited(Path(out))
