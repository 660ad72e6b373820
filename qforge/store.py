"""Results by key: the same question is answered once. Complete or absent, for any number of jobs at once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qforge.request import to_json


def key_of(parts: Any) -> str:
    """The key of a result: a hash of everything that decides it."""
    return hashlib.sha256(json.dumps(json.loads(to_json(parts)), sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def locked(file: Path, shared: bool = False) -> Iterator[int]:
    """Hold a lock on `file`; yields its descriptor. The kernel drops it with the last process that holds it open."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


class Store:
    """Folders <root>/<stage>/<key>/, each with key.json: what the key was made of."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, parts: Any) -> Path | None:
        """The finished result, or none."""
        folder = self.root / stage / key_of(parts)
        return folder if folder.is_dir() else None

    def get(self, stage: str, parts: Any, build: Callable[[Path], None]) -> tuple[Path, bool]:
        """The result for `parts`, built by `build(folder)` if it is not there yet; and whether it was.

        Another job that builds the same is waited for. A result appears by rename when it is complete.
        """
        final = self.root / stage / key_of(parts)
        if final.is_dir():
            return final, True
        with locked(final.with_suffix(".lock")):
            if final.is_dir():
                return final, True
            partial = final.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a job that died: the lock was free
            partial.mkdir(parents=True)
            try:
                build(partial)
                (partial / "key.json").write_text(to_json(parts))
                partial.rename(final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return final, False
