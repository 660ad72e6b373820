"""The bounds of a value, beside its field: `windows: int = bounded(MISSING, at_least=1)`. One walk checks them all.

Imports the standard library only, as config/job.py does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

BOUNDS = "bounds"  # of a field's metadata
LARGEST = (
    10**9
)  # of a bounded number without an upper bound of its own: no count, length, second or GB/s here comes near
LONGEST = 4096  # characters of a text: what Linux takes for a path


@dataclass(frozen=True)
class Bounds:
    """What a value may be. Of a list or a dict the numbers and `one_of` bind each entry; null is always allowed where it is
    the default. `non_empty`: an entry at least, or a text that is not blank and has one line."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    one_of: tuple[str, ...] = ()
    non_empty: bool = False
    unique: bool = False

    def faults(self, key: str, value: Any) -> Iterator[str]:
        """What is wrong with the value of `key`, each time with the bound and the fix."""
        if isinstance(value, str) and self.non_empty and (not value.strip() or "\n" in value.strip()):
            yield f"{key}={value!r:.100}: {'has several lines' if value.strip() else 'is blank'}; give a text of one line"
        elif isinstance(value, list | dict) and self.non_empty and not value:
            yield f"{key}={value}: at least one entry is needed; give one, or leave {key} out for the default"
        if isinstance(value, dict):
            for name, entry in value.items():
                yield from self.faults(f"{key}.{name}", entry)
        elif isinstance(value, list):
            yield from self._faults_of_list(key, value)
        elif isinstance(value, str) and self.one_of and value not in self.one_of:
            yield f"{key}: {value!r} is unknown; choose from {', '.join(self.one_of)}"
        elif isinstance(value, int | float) and not self._holds(value):
            yield f"{key}={value}: {self._range(value)} is needed; use {key}={self._nearest(value)}"

    def _faults_of_list(self, key: str, values: list[Any]) -> Iterator[str]:
        numbers = [value for value in values if isinstance(value, int | float)]
        if not all(map(self._holds, numbers)):
            legal = list(dict.fromkeys(value if self._holds(value) else self._nearest(value) for value in values))
            yield f"{key}={values}: {self._range(*numbers)} is needed for each; use {key}={legal}"
        for value in values:
            if isinstance(value, str):
                yield from self.faults(key, value)
        if self.unique and any(value in values[:place] for place, value in enumerate(values)):
            once = [value for place, value in enumerate(values) if value not in values[:place]]
            yield f"{key}={values}: each value may appear only once; use {key}={once}"

    def _holds(self, value: float) -> bool:
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )

    def _range(self, *values: float) -> str:
        """In words; the bound that every number has is named only where it is what these exceed."""
        most = None if self.at_most == LARGEST and not any(value > LARGEST for value in values) else self.at_most
        parts = {"at least": self.at_least, "above": self.above, "at most": most}
        return (
            " and ".join(f"{word} {bound:.10g}" for word, bound in parts.items() if bound is not None)
            or "a finite number"
        )

    def _nearest(self, value: float) -> float:
        """A value within the bounds: the nearest, or above an open bound the next whole number, or the upper bound."""
        least = self.at_least if self.at_least is not None else self.above + 1 if self.above is not None else None
        if self.at_most is not None and (least is None or least > self.at_most or value > self.at_most):
            return self.at_most
        return 0 if least is None else least


def bounded(default: Any = ..., *, factory: Callable[[], Any] | None = None, **bounds: Any) -> Any:
    """A dataclass field with bounds (the fields of `Bounds`); `factory` makes the default of a list or a dict."""
    if bounds and not {"at_most", "one_of"} & bounds.keys():
        bounds["at_most"] = LARGEST
    metadata = {BOUNDS: Bounds(**bounds)}
    return field(default_factory=factory, metadata=metadata) if factory else field(default=default, metadata=metadata)


def line(default: Any = ...) -> Any:
    """A field with a text of one line that is not blank."""
    return bounded(default, non_empty=True)


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
        yield from _faults_of_texts(name, value)
        if BOUNDS in each.metadata:
            yield from each.metadata[BOUNDS].faults(name, value)
        if is_dataclass(value):
            yield from _faults(value, f"{name}.")
        elif isinstance(value, dict):
            for entry, part in value.items():
                if is_dataclass(part):
                    yield from _faults(part, f"{name}.{entry}.")


def _faults_of_texts(key: str, value: Any) -> Iterator[str]:
    """Texts and names of entries that would break what is printed or written: control characters, blank or endless ones."""
    if isinstance(value, str):
        if hidden := [c for c in value if not c.isprintable() and c not in "\n\t"]:
            yield f"{key}={value!r:.100}: has the character {hidden[0]!r}, which cannot be printed; remove it"
        if len(value) > LONGEST:
            yield f"{key}={value!r:.40}...: has {len(value)} characters; use {LONGEST} at most"
    elif isinstance(value, dict):
        for name, part in value.items():
            if not str(name).strip() or not str(name).isprintable():
                yield f"{key}.{name!r:.100}: is no name for an entry; use letters and digits"
            yield from _faults_of_texts(f"{key}.{name}", part)
    elif isinstance(value, list):
        for part in value:
            if isinstance(part, str) and not part.strip():
                yield f"{key}={value!r:.100}: has a blank entry; remove it"
            yield from _faults_of_texts(key, part)
