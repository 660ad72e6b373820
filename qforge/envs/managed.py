"""The environments that qforge makes: one pinned folder each, made on first use, never changed while in use."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from packaging.requirements import Requirement

from qforge.config.places import INSTALLED, ROOT, cache
from qforge.console import print_waiting
from qforge.envs import install
from qforge.envs.process import Environment
from qforge.machine import hardware
from qforge.store.locks import locked

# projects share what an installed qforge makes, and so may two of its versions, whose lists differ
VENVS = cache() / "venvs" if INSTALLED else ROOT / ".venvs"


def requirements(name: str) -> Path:
    """The pinned list of a managed environment. Raises ValueError for an unknown one."""
    file = ROOT / "envs" / f"{name}.txt"
    if not file.is_file() or name.endswith(".overrides"):
        names = sorted(f.stem for f in file.parent.glob("*.txt") if not f.stem.endswith(".overrides"))
        raise ValueError(f"env={name}: no such environment; choose from {', '.join(names)}")
    return file


def pins(name: str) -> dict[str, str]:
    """The version of each package that this Python and platform get."""
    lines = [Requirement(line) for line in requirements(name).read_text().splitlines()]
    return {r.name: str(r.specifier).removeprefix("==") for r in lines if not r.marker or r.marker.evaluate()}


def identity(name: str) -> str:
    """What decides the versions of a managed environment, without making it: part of the key of every result made in it.

    Which build of torch a machine gets is no part of it, as the device that a stage ran on is none: the version is the
    same, and each result says in `versions` which build made it.
    """
    return f"{name}-{hashlib.sha256(requirements(name).read_bytes()).hexdigest()[:12]}"


def managed(name: str, gpu: bool | None = None) -> Environment:
    """The environment pinned in envs/<name>.txt, made on first use. Half-made or outdated ones are made anew.

    `gpu`: it will run on GPUs (None: if this machine has one); a CPU build of torch that qforge chose is outdated then.
    """
    on_cluster, gpu = _on_cluster(), _has_gpu() if gpu is None else gpu
    environment, folder = _environment(name), _folder(name)
    if _is_ready(environment, gpu):
        return environment
    with locked(folder.with_suffix(".lock"), waiting=lambda: print_waiting(f"the environment {name}")):
        if not _is_ready(environment, gpu):
            if on_cluster:  # where there may be no network
                raise ValueError(
                    f"env={name}: it does not exist, and a job on a compute node makes no environment; submit the job "
                    "again: environments are made before anything is submitted"
                )
            build = install.make(name, requirements(name), folder, gpu)
            os.sync()  # thousands of files, on the disk before the one that says that they are whole
            # written last: what lacks it is half-made
            (folder / "qforge.ready").write_text(f"{environment.identity} {build}")
    return environment


def ready(name: str) -> bool:
    """Whether it is made for this machine, whole and of today's list."""
    return _is_ready(_environment(name), _has_gpu())


def _environment(name: str) -> Environment:
    folder = _folder(name)
    return Environment(folder / "bin" / "python", identity(name), folder.with_suffix(".lock"), install.environ(name))


def _folder(name: str) -> Path:
    return VENVS / (identity(name) if INSTALLED else name)


def _on_cluster() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"  # made before it was submitted, for what it runs on


def _has_gpu() -> bool:
    return hardware.has_gpu() and not _on_cluster()


def _is_ready(environment: Environment, gpu: bool) -> bool:
    file = environment.python.parent.parent / "qforge.ready"
    if not file.exists() or not environment.python.exists():
        return False
    made, _, build = file.read_text().partition(" ")
    return made == environment.identity and not (gpu and build == install.CPU_BUILD)
