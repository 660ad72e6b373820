"""How a process imports, and when it ends: with its parent, and quietly."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Imports of large libraries, whose objects stay: looking for garbage among them took a fifth of the time (LOG)."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def end_quietly() -> None:
    """Nothing on stderr once Python and all exit handlers have written theirs.

    nanobind, behind Triton, takes what gc.freeze keeps for leaks: its list would be the end of every log.
    """
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))  # registered first, so it comes last


def die_with(parent: int) -> None:
    """Ask Linux to end this process when its parent, whose number this is, dies; end now if it has died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
