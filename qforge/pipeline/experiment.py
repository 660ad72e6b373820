"""An experiment of which the command line changes what it is about: said in the plan and in the row, which bear its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from qforge.config.compose import given_values
from qforge.config.places import option_files

NAME = "experiment"
OWN = ("defaults", NAME)  # of its file; all else are keys of the job


def notes() -> list[str]:
    """For the plan of this process's job: what its experiment sets and the command line sets otherwise."""
    given = given_values()
    name = given.pop(NAME, "")
    own = dict(_sets(name))
    changed = [
        (f"{other}={value}", f"{key}={text}")
        for key, text in given.items()
        for other, value in own.items()
        if _same(key, other) and value != text
    ]
    if not changed:
        return []
    there, here = (", ".join(dict.fromkeys(side)) for side in zip(*changed, strict=True))
    return [
        f"experiment={name} sets {there}, and this run has {here}: its question and what it expects are of the former"
    ]


def _same(key: str, other: str) -> bool:
    """Whether they are one key, or one lies in the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _sets(name: str) -> Iterator[tuple[str, str]]:
    """What an experiment sets, by key or group; what it inherits comes first."""
    files = option_files(NAME)
    if name not in files:
        return
    content = yaml.safe_load(files[name].read_text())
    for default in content.get("defaults", []):
        if isinstance(default, str):
            yield from _sets(default.removeprefix(f"/{NAME}/"))
        else:
            yield from (
                (key.removeprefix("override ").removeprefix("/"), _text(option)) for key, option in default.items()
            )
    yield from _leaves("", {key: value for key, value in content.items() if key not in OWN})


def _text(value: Any) -> str:
    """As the command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _leaves(prefix: str, content: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(content, dict):
        yield prefix.removesuffix("."), _text(content)
        return
    for key, value in content.items():
        yield from _leaves(f"{prefix}{key}.", value)
