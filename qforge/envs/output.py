"""What a process says: piece by piece as it comes, and which of it is of use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator


def pieces(descriptor: int) -> Iterator[tuple[str, bool]]:
    """What a process prints, cut at line ends (True) and at the carriage returns of progress bars (False)."""
    rest = b""
    while chunk := os.read(descriptor, 65536):
        *parts, rest = re.split(rb"([\r\n])", rest + chunk)
        for text, end in zip(parts[::2], parts[1::2], strict=True):
            yield text.decode(errors="replace"), end == b"\n"
    if rest:
        yield rest.decode(errors="replace"), True


def words(lines: Iterable[str]) -> list[str]:
    """Of what a process has said, what may be of use: not Python's resource tracker, which speaks when all is over."""
    return [line for line in lines if line.strip() and "resource_tracker" not in line]
