"""`python run.py` by whatever Python is typed: .venv where there is one, else one line that says what to run."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import ROOT

from qforge import control

PLAN = ("plan_only=true", "model=qwen3_8b", "hw=h100", "method=rtn")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that `python run.py` reads first, in a folder without a .venv."""
    shutil.copy(ROOT / "run.py", tmp_path)  # Python looks for modules beside the file that a link means
    for name in ("qforge", "conf", "data", "envs", "hydra_plugins"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


@pytest.fixture
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def typed(python: Path | str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "run.py", f"hydra.run.dir={folder / 'out'}", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120)


def test_without_a_venv_one_line_says_what_to_run(clone: Path, bare: Path) -> None:
    done = typed(bare, clone)
    line = (
        "this Python has no Hydra, and .venv does not exist; run `make .venv/control.ready` once, then run this again"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"refused: {line}\n")


def test_a_venv_is_used_where_there_is_one(clone: Path, bare: Path) -> None:
    (clone / ".venv").symlink_to(Path(sys.prefix))
    done = typed(bare, clone, *PLAN)
    assert done.returncode == 0, done.stderr
    assert "served" in done.stdout


def test_a_half_made_venv_is_said_and_not_entered_for_ever(clone: Path, bare: Path) -> None:
    (clone / ".venv").symlink_to(bare.parent.parent)
    assert "run `make .venv/control.ready` once" in typed(bare, clone).stderr


def test_a_python_that_has_hydra_is_kept(clone: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").write_text("never started")
    assert typed(sys.executable, clone, *PLAN).returncode == 0


@pytest.mark.parametrize(("version", "name"), [((3, 10), "3.10"), ((3, 14), "3.14"), ((4, 0), "4.0")])
def test_another_version_is_refused(version: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    words = f"is Python {name}, and qforge needs 3.11, 3.12 or 3.13; run `make .venv/control.ready PYTHON=python3.11`"
    assert control.refusal() == f"{sys.executable} {words}"


def test_make_and_run_say_so_of_an_old_python(clone: Path) -> None:
    """Of one of 3.6 to 3.10 that is on this machine, where there is one."""
    for name in ("python3.6", "python3.7", "python3.8", "python3.9", "python3.10"):
        if (old := shutil.which(name)) and subprocess.run([old, "-c", ""], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("no old Python on this machine")
    ran = typed(old, clone)
    assert ran.returncode == 2
    assert "needs 3.11, 3.12 or 3.13; run `make" in ran.stderr
    assert ran.stderr.count("\n") == 1
    made = subprocess.run(["make", f"PYTHON={old}", ".venv/control.ready"], cwd=clone, capture_output=True, text=True)
    assert made.returncode
    assert "refused: " in made.stderr
    assert "needs 3.11, 3.12 or 3.13; run `make" in made.stderr
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("file", ["run.py", "qforge/control.py", "qforge/__init__.py"])
def test_an_old_python_can_read_what_it_is_given(file: str) -> None:
    ast.parse((ROOT / file).read_text(), feature_version=(3, 6))
