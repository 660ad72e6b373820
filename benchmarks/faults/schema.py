"""Every value of the schema, and what could be given for it that is wrong by its type alone."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qforge.config.bounds import BOUNDS, Bounds
from qforge.config.job import Job

# Of a dict of typed entries, the one that the default configuration has
ENTRIES = {"exempt": "lm_head", "eval.texts": "wikitext", "calib.texts": "wikitext", "gate.criteria": "speed"}

ABSENT = (
    "model.gguf",
    "calib.texts.wikitext.dataset",
    "eval.long_context.texts",
    "experiment",
)  # of the default configuration


@dataclass(frozen=True)
class Leaf:
    """A value that the command line may set."""

    key: str
    kinds: frozenset[Any]  # of int, float, str, bool, an Enum, list, dict, NoneType, Any
    entry: frozenset[Any]  # the kinds of the entries of a list or a dict
    bounds: Bounds | None


def leaves(schema: type = Job, prefix: str = "") -> Iterator[Leaf]:
    """Every value below the schema that the default configuration has."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        options = _options(hint)
        typed = next((o for o in options if dataclasses.is_dataclass(o)), None)
        entries = next((typing.get_args(o) for o in options if typing.get_origin(o) in (list, dict)), ())
        of_typed = entries and dataclasses.is_dataclass(entries[-1])
        if key in ABSENT or (of_typed and key not in ENTRIES):
            continue
        if typed:
            yield from leaves(typed, f"{key}.")
        elif of_typed:
            yield from leaves(entries[-1], f"{key}.{ENTRIES[key]}.")
        else:
            kinds = frozenset(typing.get_origin(o) or o for o in options)
            entry = frozenset(typing.get_origin(o) or o for e in entries[-1:] for o in _options(e))
            yield Leaf(key, kinds, entry, field.metadata.get(BOUNDS))


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)
