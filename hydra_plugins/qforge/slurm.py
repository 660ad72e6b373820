"""hydra/launcher=slurm: a job array of which every job ends as a row. Hydra loads this for every command: keep it light."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import OmegaConf, open_dict

if TYPE_CHECKING:
    from qforge import slurm


class Launcher(SlurmLauncher):  # type: ignore[misc]  # of hydra's own, untyped
    """submitit's, but it waits for every job and gives up at none.

    What is inherited runs a job on its node, and has a preempted one start again: its finished stages are in the store.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit, wait for all, and leave a row for each that could not do so itself. Raises for no job."""
        from qforge import command, outcome, slurm

        tasks: list[slurm.Task] = []
        codes: dict[int, int] = {}

        def sweep() -> None:
            tasks.extend(self._task(initial_job_idx + i, list(o)) for i, o in enumerate(job_overrides))
            slurm.prepare(tasks)
            state = Singleton.get_state()
            arguments = [(task.overrides, "hydra.sweep.dir", task.number, str(task.number), state) for task in tasks]
            jobs = slurm.submit(self, arguments, self.params)
            codes.update((place, slurm.settle(tasks[place], jobs[place])) for place in slurm.ended(jobs))

        if code := command.ending(sweep):
            outcome.codes.append(code)
            sys.exit(code)
        outcome.codes.extend(codes.values())
        return [
            JobReturn(overrides=task.overrides, status=JobStatus.COMPLETED, _return_value=codes[place])
            for place, task in enumerate(tasks)
        ]

    def __call__(self, *arguments: Any) -> JobReturn:
        """On the node: run the job. A stage that SLURM ended is no failure of the job, so it leaves no row."""
        told = list[int]()
        signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        return super().__call__(*arguments)

    def _task(self, number: int, overrides: list[str]) -> slurm.Task:
        """The job of these overrides. Raises OmegaConf's exceptions."""
        from qforge.slurm import Task

        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = number
            folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()
            del config["hydra"]
        return Task(number, list(filter_overrides(overrides)), OmegaConf.to_object(config), folder)
