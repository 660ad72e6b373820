"""search=ladder: jobs of which each depends on how the last one ended. Hydra loads this for every command: keep it light."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from qforge.config.job import Job
    from qforge.sweeps.ladder import Climb, Rung, Step


class Ladder(BasicSweeper):
    """Every combination of the swept axes climbs a ladder of its own; what the launcher gets at once is a rung of each."""

    def __init__(self, rungs: DictConfig) -> None:
        super().__init__(max_batch_size=None)
        self.rungs = rungs

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Climb until every ladder has ended; <hydra.sweep.dir>/ladder.json has what each rung gained."""
        from qforge.sweeps import ladder_report

        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        ladders, ended = self._ladders(arguments, folder), list[JobReturn]()
        while batch := [(ladder, step) for ladder in ladders if (step := ladder.next())]:
            ended += self._launch(batch, len(ended))
        ladder_report.write(folder / "ladder.json", ladders)
        ladder_report.show(ladders)
        return ended

    def _ladders(self, arguments: list[str], folder: Path) -> list[Climb]:
        """One per combination. Refuses what no rung could run, before the first does."""
        from qforge.sweeps import ladder

        parsed = OverridesParser.create().parse_overrides(arguments)
        try:
            rungs = [self._rung(str(name)) for name in self.rungs]
            ladder.refuse_given(arguments, rungs)
            starts = [list(start) for start in self.split_arguments(parsed, None)[0]]
            self.validate_batch_is_legal([ladder.replaced(start, rung.plain) for start in starts for rung in rungs])
            return [ladder.Climb(start, rungs, self._job, folder) for start in starts]
        except (ValueError, OmegaConfBaseException) as refusal:
            raise CompactHydraException(f"refused: {str(refusal).splitlines()[0]}") from None

    def _rung(self, name: str) -> Rung:
        """Raises OmegaConf's exceptions for a key that no rung has."""
        from qforge.sweeps.ladder import Rung

        rung: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Rung), {"name": name}, self.rungs[name]))
        assert isinstance(rung, Rung)
        return rung

    def _launch(self, batch: list[tuple[Climb, Step]], first: int) -> list[JobReturn]:
        """Run the jobs of a round, numbered from `first`, and tell each ladder how its own ended."""
        assert self.launcher is not None
        for number, (_, step) in enumerate(batch, first):
            step.start(self._folder(step.overrides, number))
        returns = list(self.launcher.launch([step.overrides for _, step in batch], initial_job_idx=first))
        for (ladder, step), ended in zip(batch, returns, strict=True):
            _ = ended.return_value  # raises what the job raised
            ladder.record(step)
        return returns

    def _job(self, overrides: list[str]) -> Job:
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
