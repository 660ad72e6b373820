"""When Hydra ends a sweep, report it. Loaded by every command, `--help` too: what is heavy is imported late."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

running: list[Report] = []  # the sweep of this process that was not reported yet
REFUSED = 2  # exit code
ended: list[int] = []  # the exit code of the sweep of this process, once it is reported


class Report(Callback):
    """Hydra's callback, named in conf/config.yaml."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _refuse_secrets(config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from qforge.config.compose import texts
        from qforge.pipeline.folder import OF_SWEEP, clear
        from qforge.sweeps import summary

        _refuse_secrets(config)
        if repo := OmegaConf.select(config, "publish.repo"):
            _refuse(
                f"publish.repo={repo}: is of one run; upload rows of a sweep afterwards: qforge publish --repo ORG/NAME FOLDER"
            )
        self.folder, self.started = Path(config.hydra.sweep.dir).absolute(), time.monotonic()
        try:
            clear(self.folder, texts(config), OF_SWEEP)
        except ValueError as refusal:
            _refuse(str(refusal).replace("hydra.run.dir", "hydra.sweep.dir"))
        self.earlier, self.config = summary.stamps(self.folder), config
        running.append(self)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        finish()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """A bug of ours is a row as well; Hydra prints it and goes on."""
        if job_return.status is JobStatus.FAILED:
            from qforge.report import unfinished

            error = job_return._return_value
            unfinished.leave(Path(config.hydra.runtime.output_dir), "failed", f"{type(error).__name__}: {error}")


def _refuse_secrets(config: DictConfig) -> None:
    """Before Hydra writes anything down."""
    from qforge.config import secrets

    values: Any = OmegaConf.to_container(config, resolve=False)
    hydra = values.pop("hydra")
    pairs = [override.lstrip("+~").partition("=") for override in hydra["overrides"]["task"]]
    try:
        for key, _, text in pairs:
            secrets.refuse({key: text.strip("'\"")})
        secrets.refuse({**values, "hydra.job.env_set": hydra["job"]["env_set"]})
    except ValueError as refusal:
        _refuse(str(refusal))


def _refuse(reason: str) -> NoReturn:
    """End before anything is done: Hydra makes a warning of every other exception of a callback."""
    print(f"refused: {reason}", file=sys.stderr)
    raise SystemExit(REFUSED)


def finish() -> None:
    """Report the sweep of this process, if there is one with any row.

    Hydra tells of no end by an exception or by Ctrl-C: run.py calls this, too, and what there is, is reported.
    """
    from qforge.sweeps import summary
    from qforge.tracking import send

    while running:
        sweep = running.pop()
        if rows := list(summary.rows(sweep.folder, sweep.earlier)):
            summary.report(sweep.folder, rows, time.monotonic() - sweep.started)
            ended.append(summary.exit_code(rows))
            send.asked(sweep.config, sweep.folder)
