"""Lists of experiments: one name on the command line for many rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from qforge.config.places import option_files


def rows(name: str, folder: Path | None = None, within: tuple[str, ...] = ()) -> Iterator[str]:
    """The experiments that a name stands for: itself, or what its list holds, in `folder` or where Hydra looks.

    `within`: the lists that led to it. Raises ValueError for a list that is part of itself.
    """
    if name in within:
        raise ValueError(
            f"conf/experiment/{within[-1]}.yaml: lists {name}, which it is part of ({' > '.join((*within, name))}); remove it"
        )
    files = {file.stem: file for file in folder.glob("*.yaml")} if folder else option_files("experiment")
    names = members(files[name]) if name in files else []
    if not names:
        yield name
    for member in names:
        yield from rows(member, folder, (*within, name))


def members(file: Path) -> list[str]:
    """What a file of conf/experiment/ lists; nothing where it is an experiment itself. Raises what `read` raises."""
    return list(read(file).get("experiments", []))


def read(file: Path) -> dict[str, Any]:
    """A file of conf/experiment/ as it is written. Raises ValueError where it is no YAML, or no mapping."""
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"conf/experiment/{file.name}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"conf/experiment/{file.name}: is not a mapping; write `key: value` lines")
    return content
