"""One job of a sweep whose launcher runs it in another process: what it is told, and its row where it left none itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qforge.config.compose import typed
from qforge.config.job import Job
from qforge.json_files import write_json
from qforge.report import unfinished


@dataclass(frozen=True)
class Task:
    """One job of a sweep: what it is told, and where its results go."""

    number: int
    overrides: list[str]
    config: DictConfig
    folder: Path

    @property
    def job(self) -> Job:
        """Raises what `typed` raises."""
        return typed(self.config)

    def leave(self, verdict: str, why: str) -> None:
        """The row of a job that has ended and left none."""
        self._begun()
        write_json(self.folder / "row.json", unfinished.row(self.folder, verdict, why))

    def _begun(self) -> None:
        """What Hydra writes down when a job begins; for one that never did."""
        folder = self.folder / ".hydra"
        folder.mkdir(parents=True, exist_ok=True)  # one that is there may be of a job of an earlier sweep
        OmegaConf.save(self.config, folder / "config.yaml")
        OmegaConf.save(OmegaConf.create(self.overrides), folder / "overrides.yaml")
