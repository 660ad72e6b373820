"""A source that one row of a sweep was refused is refused to the others at once: looking at it takes as long each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qforge.config.compose import sweep_folder
from qforge.envs.request import Refused
from qforge.json_files import write_text


@contextmanager
def once(name: str) -> Iterator[None]:
    """The making of a result, under its lock. Where an earlier row of this sweep raised Refused in it, ValueError with the
    same words is raised before it begins.

    They stand in <hydra.sweep.dir>/refused-<name>.txt, which the next sweep in that folder removes (OF_SWEEP in folder.py).
    """
    sweep = sweep_folder()
    note = sweep / f"refused-{name}.txt" if sweep else None
    if note and note.exists():
        raise ValueError(note.read_text())
    try:
        yield
    except Refused as refusal:
        if note:
            write_text(note, str(refusal))
        raise
