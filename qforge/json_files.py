"""JSON files: read whole, written whole or not at all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from qforge.disk import appear


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises ValueError with the file's name where it is none."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: a JSON object was expected")
    return content


NUMBERS = re.compile(r"(?<=\[)\n[-+.\deE,\s]+(?=\])")  # no string holds a line's end as such


def to_json(value: Any) -> str:
    """Readable JSON of dataclasses and plain data, a list of numbers on one line; NaN and infinity are errors."""
    try:
        text = json.dumps(value, indent=2, default=_plain, allow_nan=False, ensure_ascii=False) + "\n"
    except ValueError as error:
        place = next(_not_finite(json.loads(json.dumps(value, default=_plain)), ""), None)
        raise ValueError(f"{place} is not a finite number" if place else str(error)) from None
    return NUMBERS.sub(lambda found: " ".join(found[0].split()), text)


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """Where NaN and infinity are in plain data, as keys and indices with dots between."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place.removeprefix(".")
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _not_finite(part, f"{place}.{key}")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_json(file: Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all. Raises ValueError for NaN and infinity."""
    write_text(file, to_json(content))


def write_text(file: Path, text: str) -> None:
    """Write `text` whole or not at all: neither a killed run nor a power cut leaves anything that looks finished."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w", newline="") as stream:  # line ends as they are
            stream.write(text)
        appear(partial, file)
    finally:
        partial.unlink(missing_ok=True)  # where the disk is full
