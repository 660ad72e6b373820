"""The types that the schema gives to a key, and whether a job has them: OmegaConf looks at no entry of a list in a list."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from qforge.config.job import Job

NEEDED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list, as in [a,b]",
    dict: "entries, as in {name: value}",
    type(None): "null",
}


def kinds(key: str, schema: Any = Job) -> tuple[Any, ...]:
    """The types that a value of `key` may have; nothing for a key that the schema does not have."""
    possible: tuple[Any, ...] = (schema,)
    for part in re.split(r"\.|\[", key):
        below: list[Any] = []
        for kind in possible:
            if dataclasses.is_dataclass(kind):
                hint = _hints(typing.cast(type, kind)).get(part)
                below += _options(hint) if hint is not None else []
            elif typing.get_origin(kind) in (list, dict):
                below += _options(typing.get_args(kind)[-1])
        possible = tuple(below)
    return possible


def names(key: str) -> list[str] | None:
    """The keys below `key`; none where any name may stand there."""
    possible = kinds(key) if key else (Job,)
    typed = next((kind for kind in possible if dataclasses.is_dataclass(kind)), None)
    return [field.name for field in dataclasses.fields(typed)] if typed else None


def needed(key: str) -> str:
    """What a value of `key` must be, for people; empty where the schema does not say."""
    return ", or ".join(filter(None, map(_in_words, kinds(key))))


def check(job: Job) -> None:
    """Raises ValueError for the first value of another type than its field's."""
    if fault := next(_faults(job, Job, ""), None):
        raise ValueError(fault)


def _faults(value: Any, hint: Any, key: str) -> Iterator[str]:
    options = _options(hint)
    matching = next((kind for kind in options if _is(value, kind)), None)
    if matching is None:
        yield f"{key}={value!r:.100}: is not {', or '.join(filter(None, map(_in_words, options)))}; give one"
    elif dataclasses.is_dataclass(matching):
        for name, part in _hints(typing.cast(type, matching)).items():
            yield from _faults(getattr(value, name), part, f"{key}.{name}".lstrip("."))
    elif typing.get_args(matching):
        entries = value.items() if isinstance(value, dict) else (("", entry) for entry in value)
        for name, entry in entries:
            yield from _faults(entry, typing.get_args(matching)[-1], f"{key}.{name}" if name else key)


def _is(value: Any, kind: Any) -> bool:
    plain = typing.get_origin(kind) or kind
    if plain is Any:
        return True
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, plain) and (plain is not int or not isinstance(value, bool))


def _in_words(kind: Any) -> str:
    plain = typing.get_origin(kind) or kind
    if isinstance(plain, type) and issubclass(plain, Enum):
        return " or ".join(member.name for member in plain)
    if dataclasses.is_dataclass(plain):
        return f"entries of its own ({', '.join(field.name for field in dataclasses.fields(plain))})"
    return NEEDED.get(plain, "")


@functools.cache
def _hints(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema)


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
