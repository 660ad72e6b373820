"""The house: rooms import only rooms below them, and no file has outgrown one noun."""

from __future__ import annotations

import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import ROOT

from qforge import stages
from qforge.store.results import _imported

LINT = Path(sys.executable).with_name("lint-imports")


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("json_files.py", "", None),
        ("json_files.py", "from qforge import cli", "rooms know only the rooms below"),
        ("plan/plan.py", "from qforge.envs import managed", "rooms know only the rooms below"),  # side by side
        ("report/row.py", "from qforge.pipeline.run import Run", "rooms know only the rooms below"),
        ("judge/bootstrap.py", "from qforge.judge import verdict", "no circle inside a room"),
    ],
)
def test_the_contracts_hold_and_an_import_upward_breaks_them(
    tmp_path: Path, file: str, line: str, broken: str | None
) -> None:
    shutil.copytree(ROOT / "qforge", tmp_path / "qforge", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    with (tmp_path / "qforge" / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    done = subprocess.run([LINT, "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == bool(broken), done.stdout
    assert broken is None or f"{broken} BROKEN" in done.stdout


def test_no_file_is_longer_than_it_should_be() -> None:
    for file in (ROOT / "qforge").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 250, file


def test_no_file_has_both_sides_of_a_merge() -> None:
    for file in subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0"):
        text = (ROOT / file).read_bytes() if (ROOT / file).is_file() else b""
        assert not re.search(rb"^(<{7}|>{7}) ", text, re.M), file


def test_the_stages_import_no_hydra() -> None:
    """They run where Hydra is not installed: so nothing that they import, however far down, may import it."""
    for module in pkgutil.iter_modules(stages.__path__):
        for file in _imported(f"qforge.stages.{module.name}"):
            assert not re.search(r"^\s*(import|from) (hydra|omegaconf)\b", file.read_text(), re.M), (module.name, file)
