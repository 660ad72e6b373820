"""Environments and the processes that run in them: one pinned folder each, made by uv, never changed while in use."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from qforge.config.job import ROOT
from qforge.console import print_waiting, progress_line
from qforge.envs.process import Environment, StageError, process
from qforge.store.locks import locked

VENVS = ROOT / ".venvs"
NETWORK = re.compile(r"error sending request|dns error|Could not connect|Connection refused|timed out|offline", re.I)


def requirements(name: str) -> Path:
    """The pinned list of a managed environment. Raises ValueError for an unknown one."""
    file = ROOT / "envs" / f"{name}.txt"
    if not file.is_file() or name.endswith(".overrides"):
        names = sorted(f.stem for f in file.parent.glob("*.txt") if not f.stem.endswith(".overrides"))
        raise ValueError(f"env={name}: no such environment; choose from {', '.join(names)}")
    return file


def identity(name: str) -> str:
    """What decides the versions of a managed environment, without making it."""
    return f"{name}-{hashlib.sha256(requirements(name).read_bytes()).hexdigest()[:12]}"


def managed(name: str) -> Environment:
    """The environment pinned in envs/<name>.txt, made on first use. Half-made or outdated ones are made anew."""
    file = requirements(name)
    folder, lock = VENVS / name, VENVS / f"{name}.lock"
    environment = Environment(folder / "bin" / "python", identity(name), lock)
    ready = folder / "qforge.ready"  # written last: what lacks it is half-made
    if _reads(ready) == environment.identity and environment.python.exists():
        return environment
    with locked(lock, waiting=lambda: print_waiting(f"the environment {name}")):
        if _reads(ready) != environment.identity or not environment.python.exists():
            if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":  # on a compute node there may be no network
                raise ValueError(
                    f"env={name}: not made yet, and a job on a compute node makes none; make it on the host that submits: "
                    f".venv/bin/python -m qforge.envs {name}"
                )
            _make(name, file, folder)
            ready.write_text(environment.identity)
    return environment


def _reads(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def _make(name: str, file: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    target = ["--python", str(folder / "bin" / "python"), "--no-deps", "--compile-bytecode"]
    log = folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    count = sum(1 for line in file.read_text().splitlines() if "==" in line)
    with progress_line("env", f"making {name} ({count} packages, once)") as line:
        for arguments in (
            ["venv", "--python", sys.executable, str(folder)],
            # the list is complete, so nothing is resolved again: what is pinned is what is installed
            ["pip", "install", *target, "-r", str(file)],
            # qforge's own vLLM plugin is found through its entry point
            ["pip", "install", *target, "--editable", str(ROOT)],
        ):
            if _uv(arguments, log):
                shutil.rmtree(folder, ignore_errors=True)
                raise _install_failure(name, log)
        line.note = f"made {name} ({count} packages)"


def _uv(arguments: list[str], log: Path) -> int:
    """Run uv, which lies in the control environment, adding its words to `log`; returns its exit code."""
    environ = {}
    if "PIP_FIND_LINKS" in os.environ:  # where pip finds local wheels, uv shall find them too
        environ = {"UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS", os.environ["PIP_FIND_LINKS"])}
    here = Environment(Path(sys.executable), "control", None)
    with log.open("ab") as output, process(here, ["-m", "uv", *arguments], environ, output.fileno()) as child:
        return child.wait()


def _install_failure(name: str, log: Path) -> Exception:
    text = log.read_text()
    if NETWORK.search(text):
        return ValueError(
            f"env={name}: the package index cannot be reached, and this environment is not made yet; connect once and "
            f"run `make envs` (uv's own words: {log})"
        )
    if "No space left on device" in text:
        return ValueError(f"env={name}: the disk is full ({VENVS}); free some space and run again")
    return StageError(f"env {name}: uv failed: {' '.join(text.split()[-40:])}  (log: {log})")


def install_packages(packages: list[str], folder: Path, log: Path) -> None:
    """Unpack pinned PyPI packages into `folder`, without their dependencies. Raises ValueError where it cannot."""
    if _uv(["pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages], log):
        text = log.read_text()
        if "No space left on device" in text:
            raise ValueError(f"store={folder}: the disk is full; free some space and run again")
        raise ValueError(f"model.gguf.packages={packages}: cannot be fetched: {' '.join(text.split())[-300:]}")
