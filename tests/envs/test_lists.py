"""The pinned lists: complete for each Python and platform, the same wherever they are made, without an address."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from support.command import ROOT

from qforge import control

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LISTS = sorted(["control", *PYPROJECT["dependency-groups"]])
PURE = {
    "antlr4-python3-runtime",
    "rouge-score",
    "sqlitedict",
    "word2number",
}  # no wheel on PyPI, and nothing to compile


@pytest.mark.parametrize("name", LISTS)
def test_a_list_holds_pins_and_no_address(name: str) -> None:
    for line in (ROOT / f"envs/{name}.txt").read_text().splitlines():
        pin = Requirement(line)
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), line  # no local build such as 2.13.0+cpu
        assert pin.url is None, line


@pytest.mark.parametrize("name", ["control", "dev", "quant", "vllm_cpu", "vllm", "bitsandbytes", "auto_round"])
def test_every_package_has_a_build_for_each_python_and_platform(name: str) -> None:
    """Those of the archived and the compiling libraries are in the table too: envs/table.py."""
    command = [sys.executable, ROOT / "envs" / "table.py", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    header, _, *rows = done.stdout.splitlines()
    assert header == "| environment | platform | 3.11 | 3.12 | 3.13 |"
    assert [row.split(" | ")[:2] for row in rows] == [[f"| {name}", "x86_64"], [f"| {name}", "aarch64"]]
    built = {package for cell in re.findall(r"builds ([^|]+) \|", done.stdout) for package in cell.split(", ")}
    assert built <= PURE


def test_what_torch_s_build_decides_is_not_in_a_list() -> None:
    """Another build asks for other packages, or for none. vLLM's GPU kernels are compiled for one build alone."""
    for name in LISTS:
        cuda = re.findall(r"^nvidia-cu\S+", (ROOT / f"envs/{name}.txt").read_text(), re.M)
        assert bool(cuda) == (name in ("vllm", "vllm_omni")), cuda


def test_every_stage_environment_says_what_must_import_there() -> None:
    declared = PYPROJECT["tool"]["qforge"]["envs"]
    assert sorted(declared) == sorted(set(LISTS) - {"control", "dev"})
    assert all("torch" in each["imports"] for name, each in declared.items() if name not in ("docs", "mlflow"))


def test_the_pythons_are_the_same_in_every_place() -> None:
    oldest, newest = (".".join(map(str, version)) for version in (control.OLDEST, control.NEWEST))
    above = f"{control.NEWEST[0]}.{control.NEWEST[1] + 1}"
    assert PYPROJECT["project"]["requires-python"] == f">={oldest},<{above}"
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    assert f'["{oldest}", "3.12", "{newest}"]' in workflow
