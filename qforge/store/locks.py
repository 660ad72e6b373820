"""Locks on files, shared and exclusive."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HELD: set[int] = set()  # descriptors of the locks held here: a child that inherits them keeps them, should we die


@contextmanager
def locked(file: Path, shared: bool = False, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock on `file`; calls `waiting` if another process has it. It ends with the last process that holds it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, kind)
        HELD.add(descriptor)
        yield
    finally:
        HELD.discard(descriptor)
        os.close(descriptor)
