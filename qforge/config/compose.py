"""From overrides to a Job: the only way. The schema is stored with Hydra here."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from qforge.config import schema, schemes, secrets
from qforge.config.job import Job
from qforge.json_files import read_json

ConfigStore.instance().store(name="schema", node=Job)


def typed(config: DictConfig | ListConfig) -> Job:
    """The job of a composed configuration.

    Raises OmegaConf's exceptions for a value that is missing or of another type, ValueError for a key that nothing reads, for
    what OmegaConf takes for another type's value, and for a secret that is not given by the name of a variable.
    """
    config = copy.deepcopy(config)
    with read_write(config), open_dict(config):
        for key, reference in secrets.references(OmegaConf.to_container(config, resolve=False)).items():
            OmegaConf.update(config, key, "\\" + reference)  # escaped: it stays a name
    job: Any = OmegaConf.to_object(config)
    assert isinstance(job, Job)
    secrets.refuse(asdict(job))
    _refuse_unknown(job, "")
    schema.check(job)
    job.method.schemes = schemes.of(job.method) | job.method.schemes
    return job


def _refuse_unknown(value: Any, prefix: str) -> None:
    """Hydra lets +key=value add a key to a typed part of the configuration, which OmegaConf then keeps as an attribute."""
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        if added := [name for name in vars(value) if name not in names]:
            raise ValueError(
                f"+{prefix}{added[0]}: no such key, and nothing would read it; choose from {', '.join(names)}, or leave it out"
            )
        for name in names:
            _refuse_unknown(getattr(value, name), f"{prefix}{name}.")
    elif isinstance(value, dict):
        for name, part in value.items():
            _refuse_unknown(part, f"{prefix}{name}.")


@functools.cache
def compose(conf: Path, *overrides: str) -> Job:
    """The job that `qforge OVERRIDES` would run, with the configuration in `conf`."""
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        return typed(hydra.compose("config", list(overrides)))


def recompose(*overrides: str) -> Job:
    """The job of this process's own command line with other choices: what method=auto and runtime=[a,b] try."""
    replaced = {override.partition("=")[0] for override in overrides}
    own = [o for o in _overrides() if o.partition("=")[0].lstrip("+") not in replaced]
    return typed(hydra.compose("config", [*own, *overrides]))


def committed(*overrides: str) -> Job:
    """The job of these choices alone, with the configuration that this process was started with."""
    return typed(hydra.compose("config", list(overrides)))


def given_values() -> dict[str, str]:
    """What this process's command line gives, by key; a key that it removes has no value. Nothing where Hydra runs no job."""
    if not HydraConfig.initialized():
        return {}
    parsed = OverridesParser.create().parse_overrides(_overrides())
    return {o.get_key_element().lstrip("+~"): o.get_value_string() for o in parsed}


def _overrides() -> list[str]:
    """This process's command line, interpolations as they are."""
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return list(overrides)


def sweep_folder() -> Path | None:
    """The folder of the sweep that this process's job is a row of; none for a run."""
    if not HydraConfig.initialized() or (settings := HydraConfig.get()).mode is not RunMode.MULTIRUN:
        return None
    return Path(settings.sweep.dir).absolute()


def listed_values() -> dict[str, list[str]]:
    """What this process's command line gives as a list, as in hw=[h100,mi325x]: Hydra would merge the options into one."""
    parsed = OverridesParser.create().parse_overrides(_overrides())
    values: list[tuple[str, Any]] = [(o.key_or_group, o.value()) for o in parsed]
    return {key: value for key, value in values if isinstance(value, list)}


def texts(config: DictConfig) -> list[str]:
    """Every text in a configuration, whatever its key; unresolved where something in it cannot be resolved."""
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        values = OmegaConf.to_container(config, resolve=False)
    return [text for text in _leaves(values) if isinstance(text, str)]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def read_job(file: Path) -> Job:
    """A job that was written as JSON. Raises OmegaConf's exceptions where a qforge with other keys wrote it."""
    return typed(OmegaConf.merge(OmegaConf.structured(Job), read_json(file)))
