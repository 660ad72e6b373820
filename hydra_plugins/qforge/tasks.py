"""The jobs of a sweep, composed before any runs. Hydra loads this for every command: keep it light."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import filter_overrides
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

if TYPE_CHECKING:
    from qforge.sweeps.task import Task


def composed(context: HydraContext, sweep: DictConfig, overrides: list[str], number: int) -> Task:
    """The job of these overrides."""
    from qforge.sweeps.task import Task

    config: Any = context.config_loader.load_sweep_config(sweep, overrides)
    with open_dict(config):
        config.hydra.job.num = number
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()
        del config["hydra"]
    return Task(number, list(filter_overrides(overrides)), config, folder)
