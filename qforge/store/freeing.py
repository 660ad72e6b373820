"""What lies in a store, and taking it out again: never what a job uses or makes."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qforge.json_files import read_json
from qforge.store.locks import locked_now
from qforge.store.results import USED

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
    places = [path for path in root.glob("*/*") if path.suffix in UNFINISHED or (path / "made.json").is_file()]
    return sorted(map(_entry, places), key=lambda entry: -entry.bytes)


def _entry(path: Path) -> Entry:
    stats = [file.stat() for file in _files(path)]
    made = path / "made.json"
    time = (made if made.is_file() else path).stat().st_mtime
    days = (datetime.datetime.now().timestamp() - time) / 86400
    linked = sum(stat.st_size for stat in stats if stat.st_nlink > 1)
    return Entry(path, sum(stat.st_size for stat in stats), linked, days, read_json(made) if made.is_file() else {})


def _files(path: Path) -> Iterator[Path]:
    yield from (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


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
