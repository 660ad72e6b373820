"""Overrides that Hydra ends with a traceback for, merges into nonsense or takes and ignores: refused before it sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.core.plugins import Plugins
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from qforge.config import schema
from qforge.config.places import CONF, option_files

SEVERAL = ("exempt", "gate", "hw", "runtime")  # groups of which a job may name several options
PLUGINS = ("hydra.launcher", "hydra.sweeper")
BELOW_NULL = "Unexpected type for root: NoneType"  # in OmegaConf's words
OURS = ("hydra.callbacks", "hydra.output_subdir", "hydra.mode")  # what reports and sweeps rely on


def refuse(argument: str) -> None:
    """Raises ValueError for an argument of the command line that cannot mean anything: what it is, and the fix."""
    key, equals, _ = argument.partition("=")
    name = key.lstrip("+~")
    if (equals or not argument.startswith("-")) and (not name or name.startswith("@")):
        raise ValueError(f"{argument}: a key is missing; use key=value, or group=option")
    if name.startswith(OURS):
        raise ValueError(f"{argument}: qforge sets it itself; leave it out")
    if key.startswith("+hydra.") and not _known_to_hydra(name):
        raise ValueError(f"{argument}: Hydra has no such key, and nothing would read it; leave it out")
    override = parsed(argument) if key and equals else None
    if override is None:
        return
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise ValueError(f"{argument}: has no values that jobs could take one by one; name them, as in {name}=1,2")
    values = given(override)
    if name in PLUGINS and values == [None]:
        raise ValueError(f"{argument}: no job runs without one; leave it out")
    if {} in values:
        raise ValueError(f"{argument}: changes nothing; to remove an entry use ~{name}.NAME")
    if (CONF / name).is_dir() or option_files(name):
        _refuse_options(argument, name, override, values)
    if set(schema.kinds(name)) - {type(None)} == {bool} and any(
        type(value) is int and value not in (0, 1) for value in values
    ):
        raise ValueError(f"{argument}: is neither true nor false; use {name}=true or {name}=false")


def below_null(arguments: list[str], error: AssertionError) -> str:
    """What is wrong where OmegaConf ends with `error`: a key below an entry that is null. Raises `error` if that is not it."""
    keys = [argument.partition("=")[0].lstrip("+~") for argument in arguments if str(error).startswith(BELOW_NULL)]
    for key in keys:
        names = key.split(".")
        for count in range(1, len(names)):
            if type(None) in schema.kinds(above := ".".join(names[:count])):
                return f"{key}: {above} is null here and has no such key; leave it out, or choose an option that has {above}"
    raise error


def _known_to_hydra(name: str) -> bool:
    """Whether Hydra has a key of this name, or one of its launchers and sweepers, which have schemas or files of their own."""
    plugin = next((plugin for plugin in PLUGINS if name.startswith(f"{plugin}.")), None)
    if plugin is None:
        return bool(schema.kinds(name.removeprefix("hydra."), HydraConf))
    key, group = name.removeprefix(f"{plugin}.").partition(".")[0], plugin.replace(".", "/")
    Plugins.instance()  # has them say what they have
    store = ConfigStore.instance()
    schemas = [store.load(f"{group}/{file}").node for file in store.list(group)]
    return any(key in options for options in [*schemas, *map(OmegaConf.load, option_files(group).values())])


def _refuse_options(argument: str, group: str, override: Override, values: list[Any]) -> None:
    """Options of a group are names; Hydra merges those of a list, of which only some groups make sense."""
    if not all(
        isinstance(option, str) and option and Path(option).name == option.removesuffix(".yaml") for option in values
    ):
        options = ", ".join(sorted(option_files(group)))
        raise ValueError(f"{argument}: not the name of an option; choose from {options}")
    if isinstance(override.value(), list) and len(values) > 1 and group not in SEVERAL:
        raise ValueError(
            f"{argument}: a job has one {group}, and Hydra would mix these; use one of them, or --multirun "
            f"{group}={','.join(values)}"
        )


def parsed(argument: str) -> Override | None:
    """The override as Hydra reads it; none for what is no override, which Hydra says better."""
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return None
    return override


def given(override: Override) -> list[Any]:
    """What an override gives its key: one value, those of a list, or those of a sweep. Nothing where only Hydra's folders say
    what a sweep goes over."""
    if override.is_sweep_override():
        over_files = override.value_type is ValueType.GLOB_CHOICE_SWEEP
        return list(override.sweep_iterator()) if override.is_discrete_sweep() and not over_files else []
    value = override.value()
    return value if isinstance(value, list) else [value]
