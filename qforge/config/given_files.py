"""Files that the user writes and a key names; what cannot be read is refused with the key, the place and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qforge.config.places import given_path


def refuse(path: str, key: str) -> None:
    """Raises ValueError where no file of text is: it is not there, in another encoding, or blank."""
    if not (file := given_path(path)).is_file():
        raise ValueError(f"{key}={path}: no such file; give a file that exists")
    if not text(file, key).strip():
        raise ValueError(f"{key}={path}: is empty; give a file with text")


def text(file: Path, key: str) -> str:
    """What is in `file`; the byte order mark that some editors write before UTF-8 is not. Raises ValueError for no UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{key}: {file}: is no text in UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8"
        ) from None


def json_lines(file: Path, key: str, example: str) -> list[tuple[int, str, Any]]:
    """Of every line that is not blank its number, where it is as messages say it, and the value; `example`: of a line.

    A line ends with a line feed, which Unicode's other ends of lines, as JSON may hold them, are not. Raises ValueError for a
    line that is no JSON.
    """
    found = []
    for number, line in enumerate(text(file, key).split("\n"), 1):
        where = f"{key}: {file} line {number}"
        if line.strip():
            try:
                found.append((number, where, json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: {error}; each line is an object, {example}") from None
    return found
