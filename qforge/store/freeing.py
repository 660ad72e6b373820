"""What lies in a store, and taking it out again: never what a job uses or makes."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qforge.json_files import read_json
from qforge.store.locks import locked_now
from qforge.store.results import USED

MADE = "made.json"  # of a result: when, where and by what
FREED = ".freed"  # taken out, and not removed yet
UNFINISHED = (".partial", ".download", ".journal", FREED)  # of a job that has not ended, or died


@dataclass(frozen=True)
class Entry:
    """A result, or what a job has begun. Bytes; `linked` are those that run folders have as well, and keep."""

    path: Path
    bytes: int
    linked: int
    days: float  # since it was made
    made: dict[str, Any]  # made.json

    @property
    def stage(self) -> str:
        return self.path.parent.name

    @property
    def key(self) -> str:
        return self.path.stem

    @property
    def unfinished(self) -> bool:
        return self.path.suffix in UNFINISHED

    @property
    def subject(self) -> str:
        """What it is about; of what is unfinished, that it is."""
        return f"unfinished ({self.path.suffix[1:]})" if self.unfinished else self.made.get("subject", "")

    @property
    def maker(self) -> str:
        """What made it: the commit of qforge and the machine."""
        commit, machine = (self.made.get(name) or {} for name in ("qforge", "machine"))
        device = (machine.get("gpus") or [machine.get("cpu", "")])[0].partition(",")[0]
        return ", ".join(filter(None, [(commit.get("commit") or "")[:8], device]))


def entries(root: Path) -> list[Entry]:
    """Everything in the store, the largest first."""
    now = datetime.datetime.now().timestamp()
    found = [_entry(path, now) for path in root.glob("*/*")]
    return sorted(filter(None, found), key=lambda entry: -entry.bytes)


def _entry(path: Path, now: float) -> Entry | None:
    """What lies there; none where that is neither a result nor something begun, or has just been taken away."""
    made = path / MADE
    try:
        if not made.is_file() and path.suffix not in UNFINISHED:
            return None
        stats = list(_stats(path))
        time = (made if made.is_file() else path).stat().st_mtime
        said = read_json(made) if made.is_file() else {}
    except FileNotFoundError:
        return None
    linked = sum(stat.st_size for stat in stats if stat.st_nlink > 1)
    return Entry(path, sum(stat.st_size for stat in stats), linked, (now - time) / 86400, said)


def _stats(path: str | Path) -> Iterator[os.stat_result]:
    """Of every file below a folder, or of a file. By scandir: a store may have a million."""
    if not os.path.isdir(path):
        yield os.stat(path)
        return
    with os.scandir(path) as files:
        for file in files:
            if file.is_dir(follow_symlinks=False):
                yield from _stats(file.path)
            elif file.is_file():
                yield file.stat()


def free(entry: Entry) -> bool:
    """Take it out of the store; False where a job uses it or makes it. It is gone at once, whatever happens then."""
    locks = [entry.path.with_suffix(suffix) for suffix in (USED, ".lock")]
    freed = entry.path.with_suffix(FREED)
    with locked_now(*locks) as alone:
        if not alone:
            return False
        if entry.path != freed:
            _remove(freed)
            entry.path.rename(freed)
    _remove(freed)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
