"""When Hydra ends a sweep, report it. Loaded by every command, `--help` too: what is heavy is imported late."""

from __future__ import annotations

import atexit
import time
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

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
            from qforge.report import unfinished

            error = job_return._return_value
            unfinished.leave(Path(config.hydra.runtime.output_dir), "failed", f"{type(error).__name__}: {error}")

    def finish(self) -> None:
        """The report, if there is any row."""
        from qforge.sweeps import summary

        if rows := list(summary.rows(self.folder)):
            summary.report(self.folder, rows, time.monotonic() - self.started)
            ended.append(summary.exit_code(rows))
