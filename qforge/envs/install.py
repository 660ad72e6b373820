"""Making an environment: the pinned list, the build of torch that this machine can use, and a first import."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qforge.config.places import INSTALLED, ROOT, importable
from qforge.console import progress_line
from qforge.envs import uv
from qforge.envs.process import Environment
from qforge.machine import hardware

CPU_BUILD, ANY_BUILD = "cpu", "any"  # torch without GPUs, chosen here since none is there; every other
IMPORT = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


def overrides(requirements: Path) -> list[Path]:
    """The file beside a list that says what is installed against what a package asks for, where there is one."""
    return [file for file in [requirements.with_suffix(".overrides.txt")] if file.exists()]


def make(name: str, requirements: Path, folder: Path, gpu: bool) -> str:
    """Install the list into `folder` and import there what its stages import. Returns CPU_BUILD or ANY_BUILD.

    The list is complete but for what a build of torch itself asks for (CUDA's packages for PyPI's, none for a CPU build).
    Raises ValueError where the user can mend it, StageError otherwise; no folder is left then.
    """
    log = folder.with_suffix(".log")
    shutil.rmtree(folder, ignore_errors=True)
    log.unlink(missing_ok=True)
    declared = _declared(name)
    count = len(requirements.read_text().splitlines())
    with progress_line("env", f"making {name} ({count} packages, once)") as line, ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        _install(name, ["venv", "--python", sys.executable, str(folder)], log)
        target = ["pip", "install", "--python", str(folder / "bin" / "python"), "--compile-bytecode"]
        build = _install_torch(name, target, requirements, gpu, log) if declared.get("torch") != "pypi" else ANY_BUILD
        overriding = [argument for file in overrides(requirements) for argument in ("--overrides", str(file))]
        _install(name, [*target, "--requirements", str(requirements), *overriding], log)
        if (
            not INSTALLED
        ):  # vLLM finds qforge's plugin through its entry point, which `importable` has of an installed one
            _install(name, [*target, "--no-deps", "--editable", str(ROOT)], log)
        _import(name, declared.get("imports", []), folder, log)
        undo.pop_all()
        line.note = f"made {name} ({count} packages)"
    return build


def environ(name: str) -> dict[str, str]:
    """What an environment's processes need: PYTHONPATH, where pyproject.toml names a folder that they look in first."""
    folder = _declared(name).get("path")
    return {"PYTHONPATH": str(importable() / folder)} if folder else {}


def _declared(name: str) -> dict[str, Any]:
    """What pyproject.toml says of an environment beside its packages."""
    declared: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["qforge"]["envs"]
    return dict(declared.get(name, {}))


def _install_torch(name: str, target: list[str], requirements: Path, gpu: bool, log: Path) -> str:
    """Take torch from its own index, in the build for this machine's driver or, where there is none, for CPUs.

    Where that index cannot be reached PyPI's build comes with the rest of the list, and 3 GB of CUDA with it. A folder of
    wheels (PIP_FIND_LINKS, UV_FIND_LINKS) or a backend (UV_TORCH_BACKEND) that the user names decides instead.
    """
    torch = [line for line in requirements.read_text().splitlines() if line.startswith("torch==")]
    backend = os.environ.get("UV_TORCH_BACKEND")
    if not torch or (not backend and (uv.wheel_folders() or (gpu and not hardware.has_gpu()))):
        return ANY_BUILD
    command = [*target, "--torch-backend", backend or "auto", "--constraints", str(requirements), *torch]
    if backend:
        _install(name, command, log)
        return ANY_BUILD
    # where a firewall drops what it does not know, four tries of three seconds are enough
    failed = uv.run(command, log, {"UV_HTTP_CONNECT_TIMEOUT": os.environ.get("UV_HTTP_CONNECT_TIMEOUT", "3")})
    return ANY_BUILD if failed or hardware.has_gpu() else CPU_BUILD


def _install(name: str, arguments: list[str], log: Path) -> None:
    # the backend is for torch alone: its index need not have the other packages
    if output := uv.run(arguments, log, {"UV_TORCH_BACKEND": None}):
        raise uv.failure(f"env={name}", output, log, _instead(name))


def _import(name: str, modules: list[str], folder: Path, log: Path) -> None:
    """Import what the stages import. Raises ValueError with the environment's own words where that fails."""
    here = Environment(folder / "bin" / "python", name, None, environ(name))
    if output := uv.output_of_failed(here, ["-c", IMPORT, *modules], log, {}):
        raise ValueError(
            f"env={name}: its packages are installed, but cannot be imported: {output[-200:]}; {_instead(name)}  (log: {log})"
        )


def _instead(name: str) -> str:
    return (
        f"give an interpreter that has these packages (+envs.{name}.python=PATH; for a server: runtime=existing "
        "runtime.python=PATH) or an image (runtime=container runtime.container=IMAGE)"
    )
