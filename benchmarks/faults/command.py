"""The command line in a fork of this process: the same as `python run.py ...`, without the second that its imports take."""

from __future__ import annotations

import contextlib
import hashlib
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import hydra  # noqa: F401

from qforge.pipeline import pipeline  # noqa: F401  what a run imports, imported once


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    seconds: float  # of CPU, its processes included
    left: list[str]  # files outside of the run's folder

    @property
    def message(self) -> str:
        """The last of its lines that says something, which is the refusal."""
        return self.output.strip()


class Place:
    """A folder in which commands run: an empty home, a store, and a folder for each run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.count = folder, folder / "store", 0
        for name in ("home", "cwd", "runs"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def run(self, *overrides: str, environ: dict[str, str] | None = None) -> Ended:
        """Run the command line with these overrides; the store is this place's, where they name none."""
        self.count += 1
        given = {override.partition("=")[0].lstrip("+~") for override in overrides}
        keys = [] if "store" in given else [f"store={self.store}"]
        if not {"hydra.run.dir", "--help", "--cfg", "--multirun", "-m"} & given:
            keys.append(f"hydra.run.dir={self.folder}/runs/{self.count}")
        if {"--multirun", "-m"} & given and "hydra.sweep.dir" not in given:
            keys.append(f"hydra.sweep.dir={self.folder}/runs/{self.count}")
        with tempfile.TemporaryFile() as output:
            before = set(self._files())
            child = os.fork()
            if child == 0:
                self._child(["run.py", *overrides, *keys], environ or {}, output.fileno())
            _, status, usage = os.wait4(child, 0)
            output.seek(0)
            text = output.read().decode(errors="replace")
        left = sorted(set(self._files()) - before)
        return Ended(os.waitstatus_to_exitcode(status), text, usage.ru_utime + usage.ru_stime, left)

    def _child(self, arguments: list[str], environ: dict[str, str], output: int) -> None:
        code = 70
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ.update({"HOME": str(self.folder / "home"), **environ})
            os.chdir(self.folder / "cwd")
            sys.argv = arguments
            try:
                runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
            except SystemExit as end:
                code = int(end.code or 0)
        finally:
            if code == 70:  # it ended by an exception, as a process of its own would show it
                traceback.print_exc()
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _files(self) -> Iterator[str]:
        """Files that are in no run's folder; what environments answered is kept in the store."""
        for base, folders, names in os.walk(self.folder):
            if Path(base) == self.folder:
                folders.remove("runs")
            yield from (os.path.relpath(os.path.join(base, name), self.folder) for name in names)


def weights(folder: Path) -> dict[str, str]:
    """sha256 of each file of weights in the artifact of a run's folder."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((folder / "artifact").glob("*.safetensors"))
    }
