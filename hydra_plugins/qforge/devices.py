"""hydra/launcher=devices: rows side by side on this machine's GPUs. Hydra loads this for every command: keep it light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from hydra_plugins.qforge.tasks import composed


class Launcher(HydraLauncher):
    """Each job is a process of its own, which ends with this one."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run them all, `rows` at a time on each GPU, and leave a row for each that could not do so itself.

        Raises CompactHydraException, which Hydra prints, where a launcher is told what it cannot do.
        """
        from qforge.sweeps import devices

        try:
            places = devices.places(self.rows)
        except ValueError as error:
            raise CompactHydraException(f"refused: {error}") from None
        numbered = [(list(overrides), number) for number, overrides in enumerate(job_overrides, initial_job_idx)]
        tasks = [composed(self.hydra_context, self.config, *given) for given in numbered]
        state = Singleton.get_state()
        devices.run(tasks, [(self, *given, state) for given in numbered], places)
        return [JobReturn(overrides=task.overrides, status=JobStatus.COMPLETED) for task in tasks]

    def __call__(self, overrides: list[str], number: int, state: dict[Any, Any]) -> JobReturn:
        """In the process of the job: run it."""
        Singleton.set_state(state)
        setup_globals()
        config: Any = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return run_job(
            hydra_context=self.hydra_context, task_function=self.task_function, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )  # fmt: skip
