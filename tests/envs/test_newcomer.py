"""A newcomer's way in a fresh clone where nothing is set: from the packages of PyPI to an answer of a served model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import ROOT

from qforge.envs import managed
from qforge.json_files import read_json

# how this machine reaches PyPI at all; what decides which builds are found there is not among it
REACHES_PYPI = {"PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CACHE_DIR"}


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """What is committed here, and nothing else."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), folder], check=True)
    yield folder
    for made in (".venv", ".venvs", ".store"):  # pytest keeps the folders of three sessions, and these are 7 GB
        shutil.rmtree(folder / made, ignore_errors=True)


def bare(folder: Path) -> dict[str, str]:
    """This process's variables without pip's and uv's settings; their configuration files are out of sight."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name in REACHES_PYPI or not name.startswith(("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV", "XDG_"))
    }
    return own | {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "HOME": str(folder), "UV_CACHE_DIR": uv_cache()}


def uv_cache() -> str:
    """Packages that were fetched before are not fetched again: the cache holds what the index gave, whoever asked for it."""
    command = [str(Path(sys.executable).with_name("uv")), "cache", "dir"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.real
def test_from_a_fresh_clone_to_a_served_answer(clone: Path, tmp_path: Path) -> None:
    environ = bare(tmp_path)
    python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
    for command in (
        ["make", f"PYTHON={python}", ".venv/control.ready"],
        [python, "run.py", "method=rtn", "stages=[quantize,inspect,serve,bench]", "bench=quick", "hydra.run.dir=out"],
    ):
        done = subprocess.run(command, cwd=clone, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)  # what a newcomer sees
    assert read_json(clone / "out" / "bench.json")["runs"]
    assert (
        read_json(clone / "out" / "quantize.json")["versions"]["torch"].partition("+")[0]
        == managed.pins("quant")["torch"]
    )
