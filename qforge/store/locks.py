"""Locks on files, shared and exclusive."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HELD: set[int] = set()  # descriptors of the locks held here: a child that inherits them keeps them, should we die


@contextmanager
def locked(
    file: Path, shared: bool = False, waiting: Callable[[], None] = lambda: None, left: bool = True
) -> Iterator[None]:
    """Hold a lock on `file`; calls `waiting` if another process has it. It ends with the last process that holds it; without
    `left` with the block, whatever process that began in it lives on."""
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
        if not left:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def locked_now(*files: Path) -> Iterator[bool]:
    """Whether all of `files` are free of locks; if so they are locked for the block. It does not wait."""
    with ExitStack() as opened:
        descriptors = []
        for file in files:
            descriptors.append(os.open(file, os.O_RDWR | os.O_CREAT, 0o644))
            opened.callback(os.close, descriptors[-1])
        try:
            for descriptor in descriptors:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


_IN_USE, _USED = ExitStack(), set[Path]()


def use(file: Path) -> None:
    """Share a lock on `file`, as long as this process and those that it starts live, or until `release`."""
    if file not in _USED:
        _IN_USE.enter_context(locked(file, shared=True))
        _USED.add(file)


def release() -> None:
    """The job of this process has ended: it uses nothing any more."""
    _IN_USE.close()
    _USED.clear()
