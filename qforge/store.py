"""Results by key: the same question is answered once. Complete or absent, for any number of jobs at once.

Jobs on many machines share a store if its file system gives flock to all of them and shows a folder that another has renamed.
NFS does with its locks (not mounted nolock or local_lock) and lookupcache=positive, Lustre with the mount option flock (not
localflock). The kernel, or the file server, frees the lock of who dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qforge import provenance
from qforge.checkpoint import read_json
from qforge.config import ROOT, Job
from qforge.request import to_json


def key_of(parts: Any) -> str:
    """The key of a result: a hash of everything that decides it."""
    return hashlib.sha256(json.dumps(json.loads(to_json(parts)), sort_keys=True).encode()).hexdigest()[:16]


def code(*files: str) -> str:
    """A change in the code of a stage makes its earlier results another question's answers."""
    return hashlib.sha256(b"".join((ROOT / "qforge" / file).read_bytes() for file in files)).hexdigest()[:12]


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


class Store:
    """Folders <root>/<stage>/<key>/, each with key.json, what the key was made of, and made.json: when, where, by what, in how
    many seconds."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, parts: Any) -> Path | None:
        """The finished result, or none."""
        folder = self.place(stage, parts)
        return folder if folder.is_dir() else None

    def place(self, stage: str, parts: Any) -> Path:
        """Where a result is, or will be."""
        return self.root / stage / key_of(parts)

    def get(self, stage: str, parts: Any, build: Callable[[Path], None]) -> tuple[Path, bool]:
        """The result for `parts`, built by `build(folder)` if it is not there yet; and whether it was.

        Another job that builds the same is waited for. A result appears by rename when it is complete.
        """
        final = self.place(stage, parts)
        if final.is_dir():
            return final, True
        with locked(final.with_suffix(".lock")):
            if final.is_dir():
                return final, True
            partial = final.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a job that died: the lock was free
            partial.mkdir(parents=True)
            started = time.monotonic()
            try:
                build(partial)
                (partial / "key.json").write_text(to_json(parts))
                (partial / "made.json").write_text(to_json({**provenance.now(), "seconds": time.monotonic() - started}))
                partial.rename(final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return final, False


def of(job: Job) -> Store:
    """The job's store: relative to the checkout."""
    return Store((ROOT / os.path.expanduser(job.store)).resolve())


def seconds(folder: Path) -> float:
    """What a result took to make; 0 for one that was made before this was written down."""
    return float(read_json(folder / "made.json").get("seconds", 0))


def result(folder: Path) -> dict[str, Any]:
    """A stage's result, with its key and when, where and by which qforge it was made."""
    return {"key": folder.name, "made": read_json(folder / "made.json"), **read_json(folder / "result.json")}
