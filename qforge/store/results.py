"""Results by key: the same question is answered once. Complete or absent, for any number of jobs at once.

Jobs on many machines share a store if its file system gives flock to all of them and shows a folder that another has renamed.
NFS does with its locks (not mounted nolock or local_lock) and lookupcache=positive, Lustre with the mount option flock (not
localflock). The kernel, or the file server, frees the lock of who dies.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qforge.config.job import Job
from qforge.config.places import PACKAGE, store_path
from qforge.disk import appear
from qforge.json_files import read_json, to_json, write_json
from qforge.store import provenance
from qforge.store.locks import locked, use

USED = ".used"  # of the file beside a result that those who use it share a lock on


def key_of(parts: Any) -> str:
    """The key of a result: a hash of everything that decides it."""
    return hashlib.sha256(json.dumps(json.loads(to_json(parts)), sort_keys=True).encode()).hexdigest()[:16]


def code(*modules: str) -> str:
    """A hash of these modules and of all of qforge that they import, however far down.

    A change in the code of a stage makes its earlier results another question's answers.
    """
    files = sorted(set().union(*map(_imported, modules)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@functools.cache
def _imported(module: str) -> frozenset[Path]:
    """The files of a module of qforge and of what it imports from qforge, at the top or in a function."""
    files, waiting = dict[str, Path](), [module]
    while waiting:
        name = waiting.pop()
        if name in files or not (file := _file(name)):
            continue
        files[name] = file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "qforge":
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    return frozenset(files.values())


def _file(module: str) -> Path | None:
    """The file of a module of qforge; none for what is no module of it."""
    if module.partition(".")[0] != "qforge":
        return None
    place = PACKAGE.parent / module.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


class Store:
    """Folders <root>/<stage>/<key>/, each with key.json, what the key was made of, and made.json: when, where, by what, in how
    many seconds."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, parts: Any) -> Path | None:
        """The finished result, or none."""
        folder = self.place(stage, parts)
        return folder if _in_use(folder) else None

    def place(self, stage: str, parts: Any) -> Path:
        """Where a result is, or will be."""
        return self.root / stage / key_of(parts)

    def get(
        self, stage: str, parts: Any, build: Callable[[Path], None], subject: str = "",
        waited: Callable[[], float] = lambda: 0.0,
    ) -> tuple[Path, bool]:  # fmt: skip
        """The result for `parts`, built by `build(folder)` if it is not there yet; and whether it was.

        `subject`: what it is about, for people who look through the store. Another job that builds the same is waited for.
        A result appears by rename when it is complete and on the disk. `waited`: a clock of the seconds that its job has waited
        for others, which are none of the seconds that the result takes.
        """
        final = self.place(stage, parts)
        if _in_use(final):
            return final, True
        with locked(final.with_suffix(".lock")):
            if _in_use(final):
                return final, True
            partial = final.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a job that died: the lock was free
            partial.mkdir(parents=True)
            started = time.monotonic() - waited()
            try:
                build(partial)
                write_json(partial / "key.json", parts)
                made = {**provenance.now(), "seconds": time.monotonic() - waited() - started, "subject": subject}
                write_json(partial / "made.json", made)
                use(final.with_suffix(USED))
                appear(partial, final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return final, False

    def answer(
        self, stage: str, parts: Any, ask: Callable[[], dict[str, Any]], waiting: Callable[[], None]
    ) -> dict[str, Any]:
        """What `ask` returns, asked once: of several jobs with the same question one asks, and the others wait for it, after
        `waiting`.

        An answer with a `fault` is not kept, since the next job may find it mended; those that waited for it ask themselves.
        """
        waited = False

        def wait() -> None:
            nonlocal waited
            waited = True
            waiting()

        with locked(self.place(stage, parts).with_suffix(".asking"), waiting=wait):
            if stored := self.find(stage, parts):
                return result(stored)
            if not waited:
                return self._kept(stage, parts, ask())
        return self._kept(stage, parts, ask())

    def _kept(self, stage: str, parts: Any, said: dict[str, Any]) -> dict[str, Any]:
        if "fault" in said:
            return said
        return result(self.get(stage, parts, lambda out: write_json(out / "result.json", said))[0])


def _in_use(folder: Path) -> bool:
    """Whether the result is there; if so, it cannot be freed while this process uses it (qforge/store/freeing.py)."""
    if folder.is_dir():
        use(folder.with_suffix(USED))
    return folder.is_dir()  # it may have been freed before it was used


def of(job: Job) -> Store:
    """The job's store."""
    return Store(store_path(job.store))


def seconds(folder: Path) -> float:
    """What a result took to make; 0 for one that was made before this was written down."""
    return float(read_json(folder / "made.json").get("seconds", 0))


def result(folder: Path) -> dict[str, Any]:
    """A stage's result, with its key and when, where and by which qforge it was made."""
    return {"key": folder.name, "made": read_json(folder / "made.json"), **read_json(folder / "result.json")}
