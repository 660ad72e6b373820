"""The bounds of a value, beside its field: `windows: int = bounded(MISSING, at_least=1)`. One walk checks them all.

Imports the standard library only, as config/job.py does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

BOUNDS = "bounds"  # of a field's metadata


@dataclass(frozen=True)
class Bounds:
    """What a value may be. Of a list or a dict the numbers and `one_of` bind each entry; null is always allowed where it is
    the default."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    one_of: tuple[str, ...] = ()
    non_empty: bool = False
    unique: bool = False

    def faults(self, key: str, value: Any) -> Iterator[str]:
        """What is wrong with the value of `key`, each time with the bound and the fix."""
        if isinstance(value, list | dict) and self.non_empty and not value:
            yield f"{key}={value}: at least one entry is needed; give one, or leave {key} out for the default"
        if isinstance(value, dict):
            for name, entry in value.items():
                yield from self.faults(f"{key}.{name}", entry)
        elif isinstance(value, list):
            yield from self._faults_of_list(key, value)
        elif isinstance(value, str) and self.one_of and value not in self.one_of:
            yield f"{key}: {value!r} is unknown; choose from {', '.join(self.one_of)}"
        elif isinstance(value, int | float) and not self._holds(value):
            yield f"{key}={value}: {self._range()} is needed; use {key}={self._nearest(value)}"

    def _faults_of_list(self, key: str, values: list[Any]) -> Iterator[str]:
        if any(isinstance(value, int | float) and not self._holds(value) for value in values):
            legal = list(dict.fromkeys(value if self._holds(value) else self._nearest(value) for value in values))
            yield f"{key}={values}: {self._range()} is needed for each; use {key}={legal}"
        for value in values:
            if isinstance(value, str):
                yield from self.faults(key, value)
        if self.unique and any(value in values[:place] for place, value in enumerate(values)):
            once = [value for place, value in enumerate(values) if value not in values[:place]]
            yield f"{key}={values}: each value may appear only once; use {key}={once}"

    def _holds(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )

    def _range(self) -> str:
        parts = {"at least": self.at_least, "above": self.above, "at most": self.at_most}
        return (
            " and ".join(f"{word} {bound:g}" for word, bound in parts.items() if bound is not None) or "a finite number"
        )

    def _nearest(self, value: float) -> float:
        """A value within the bounds: the nearest, or above an open bound the next whole number, or the upper bound."""
        least = self.at_least if self.at_least is not None else self.above + 1 if self.above is not None else None
        if self.at_most is not None and (least is None or least > self.at_most or value > self.at_most):
            return self.at_most
        return 0 if least is None else least


def bounded(default: Any = ..., *, factory: Callable[[], Any] | None = None, **bounds: Any) -> Any:
    """A dataclass field with bounds (the fields of `Bounds`); `factory` makes the default of a list or a dict."""
    metadata = {BOUNDS: Bounds(**bounds)}
    return field(default_factory=factory, metadata=metadata) if factory else field(default=default, metadata=metadata)


def unbounded(default: Any = ..., *, factory: Callable[[], Any] | None = None) -> Any:
    """A field that takes every value of its type; a comment beside it says why, or what else decides."""
    return bounded(default, factory=factory)


def check(settings: Any, key: str = "") -> None:
    """Raises ValueError for the first value below `settings`, a dataclass, that is out of its bounds: key, bound, fix."""
    if fault := next(_faults(settings, key), None):
        raise ValueError(fault)


def _faults(settings: Any, key: str) -> Iterator[str]:
    for each in fields(settings):
        value, name = getattr(settings, each.name), f"{key}{each.name}"
        if BOUNDS in each.metadata:
            yield from each.metadata[BOUNDS].faults(name, value)
        if is_dataclass(value):
            yield from _faults(value, f"{name}.")
        elif isinstance(value, dict):
            for entry, part in value.items():
                if is_dataclass(part):
                    yield from _faults(part, f"{name}.{entry}.")
