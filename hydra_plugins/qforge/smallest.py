"""search=smallest: the smallest checkpoint that a gate accepts. Hydra loads this for every command: keep it light."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.qforge.rounds import Rounds

if TYPE_CHECKING:
    from qforge.sweeps.smallest import Halving


class Smallest(Rounds):
    """Every combination of the swept axes has a smallest checkpoint of its own."""

    def __init__(self, within: float) -> None:
        super().__init__()
        self.within = within

    def begin(self, arguments: list[str], folder: Path) -> Sequence[Halving]:
        """One for each combination. Refuses what no job could run, before the first does."""
        from qforge.sweeps.smallest import Halving

        parsed = OverridesParser.create().parse_overrides(arguments)
        try:
            starts = [list(start) for start in self.split_arguments(parsed, None)[0]]
            return [Halving(start, self.job, folder, self.within) for start in starts]
        except (ValueError, OmegaConfBaseException) as refusal:
            raise CompactHydraException(f"refused: {str(refusal).splitlines()[0]}") from None

    def end(self, searches: Sequence[Any], folder: Path) -> None:
        """<hydra.sweep.dir>/smallest.json has every size with what it measured."""
        from qforge.sweeps import smallest

        smallest.write(folder / "smallest.json", searches)
        smallest.show(searches)
