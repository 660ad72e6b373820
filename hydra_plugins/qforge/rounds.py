"""A search: jobs of which each depends on how the last one ended. Hydra loads this for every command: keep it light."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from qforge.config.job import Job
    from qforge.sweeps.step import Search, Step


class Rounds(BasicSweeper):
    """Every combination of the swept axes is a search of its own; what the launcher gets at once is a job of each."""

    def __init__(self) -> None:
        super().__init__(max_batch_size=None)

    @abstractmethod
    def begin(self, arguments: list[str], folder: Path) -> Sequence[Search]:
        """One for each combination. Refuses, by CompactHydraException, what no job could run, before the first does."""

    @abstractmethod
    def end(self, searches: Sequence[Search], folder: Path) -> None:
        """Write and show what was found."""

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Go on until every search has ended."""
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        searches, ended = self.begin(arguments, folder), list[JobReturn]()
        while batch := [(search, step) for search in searches if (step := search.next())]:
            ended += self._launch(batch, len(ended))
        self.end(searches, folder)
        return ended

    def _launch(self, batch: list[tuple[Search, Step]], first: int) -> list[JobReturn]:
        """Run the jobs of a round, numbered from `first`, and tell each search how its own ended."""
        assert self.launcher is not None
        for number, (_, step) in enumerate(batch, first):
            step.start(self._folder(step.overrides, number))
        returns = list(self.launcher.launch([step.overrides for _, step in batch], initial_job_idx=first))
        for (search, step), ended in zip(batch, returns, strict=True):
            _ = ended.return_value  # raises what the job raised
            search.record(step)
        return returns

    def job(self, overrides: list[str]) -> Job:
        """The job of these overrides."""
        from qforge.config.compose import typed

        config = self._config(overrides)
        with open_dict(config):
            del config["hydra"]
        return typed(config)

    def _folder(self, overrides: list[str], number: int) -> Path:
        """Where the launcher will put the job."""
        config = self._config(overrides)
        with open_dict(config):
            config.hydra.job.num = number
        return Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()

    def _config(self, overrides: list[str]) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
