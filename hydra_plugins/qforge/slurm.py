"""hydra/launcher=slurm: a job array of which every job ends as a row. Hydra loads this for every command: keep it light."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from hydra_plugins.qforge.tasks import composed

KILL_WAIT = 3600  # seconds; longer than KillWait and GraceTime are anywhere


class Launcher(SlurmLauncher):  # type: ignore[misc]  # of hydra's own, untyped
    """submitit's, but it waits for every job and gives up at none.

    What is inherited runs a job on its node, and has a preempted one start again: its finished stages are in the store.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit, wait for all, and leave a row for each that could not do so itself.

        Raises CompactHydraException, which Hydra prints, where nothing could be submitted.
        """
        from qforge.console import console
        from qforge.envs.process import StageError
        from qforge.sweeps import slurm

        try:
            tasks = [
                composed(self.hydra_context, self.config, list(overrides), number)
                for number, overrides in enumerate(job_overrides, initial_job_idx)
            ]
            slurm.prepare(tasks)
            state = Singleton.get_state()
            arguments = [(task.overrides, "hydra.sweep.dir", task.number, str(task.number), state) for task in tasks]
            jobs = slurm.submit(self, arguments, self.params)
        except (ValueError, StageError) as error:
            raise CompactHydraException(f"refused: {error}") from None
        console.print(f"submitted {len(jobs)} jobs to SLURM, as {slurm.array_of(jobs)}")
        try:
            for place in slurm.wait(jobs):
                slurm.settle(tasks[place], jobs[place])
        except KeyboardInterrupt:
            slurm.cancel(jobs)
            console.print("interrupted; the jobs are cancelled, what was finished is kept", style="yellow")
            raise
        return [JobReturn(overrides=task.overrides, status=JobStatus.COMPLETED) for task in tasks]

    def __call__(self, *arguments: Any) -> JobReturn:
        """On the node: run the job.

        SLURM's SIGTERM reaches the stages too. What dies of it is no failure of the job, so it leaves no row; and it does
        not end the job, for it may come before a preemption's SIGUSR2, which does.
        """
        told = list[int]()
        signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        returned: JobReturn = super().__call__(*arguments)
        if told and (returned.status is not JobStatus.COMPLETED or returned.return_value):
            assert returned.hydra_cfg
            Path(returned.hydra_cfg.hydra.runtime.output_dir, "row.json").unlink(missing_ok=True)
            time.sleep(KILL_WAIT)
            raise RuntimeError(f"SLURM sent SIGTERM, and {KILL_WAIT} s later the job was still running")
        return returned
