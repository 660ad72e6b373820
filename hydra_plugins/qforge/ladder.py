"""search=ladder: jobs of which each depends on how the last one ended. Hydra loads this for every command: keep it light."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.qforge.rounds import Rounds

if TYPE_CHECKING:
    from qforge.sweeps.ladder import Climb, Rung


class Ladder(Rounds):
    """Every combination of the swept axes climbs a ladder of its own."""

    def __init__(self, rungs: DictConfig) -> None:
        super().__init__()
        self.rungs = rungs

    def begin(self, arguments: list[str], folder: Path) -> Sequence[Climb]:
        """One per combination. Refuses what no rung could run, before the first does."""
        from qforge.sweeps import ladder
        from qforge.sweeps.step import replaced

        parsed = OverridesParser.create().parse_overrides(arguments)
        try:
            rungs = [self._rung(str(name)) for name in self.rungs]
            ladder.refuse_given(arguments, rungs)
            starts = [list(start) for start in self.split_arguments(parsed, None)[0]]
            self.validate_batch_is_legal([replaced(start, rung.plain) for start in starts for rung in rungs])
            return [ladder.Climb(start, rungs, self.job, folder) for start in starts]
        except (ValueError, OmegaConfBaseException) as refusal:
            raise CompactHydraException(f"refused: {str(refusal).splitlines()[0]}") from None

    def end(self, searches: Sequence[Any], folder: Path) -> None:
        """<hydra.sweep.dir>/ladder.json has what each rung gained."""
        from qforge.sweeps import ladder_report

        ladder_report.write(folder / "ladder.json", searches)
        ladder_report.show(searches)

    def _rung(self, name: str) -> Rung:
        """Raises OmegaConf's exceptions for a key that no rung has."""
        from qforge.sweeps.ladder import Rung

        rung: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Rung), {"name": name}, self.rungs[name]))
        assert isinstance(rung, Rung)
        return rung
