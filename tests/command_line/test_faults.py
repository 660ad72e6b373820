"""A small part of benchmarks/faults: bad command lines, each in a fork, values drawn from the schema, and bad files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT, Cli


def test_bad_command_lines_end_as_refusals() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/faults/config.py"), "--examples", "6", "--every", "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 found; nothing was fetched" in done.stdout


def test_bad_files_are_found_and_undamaged_ones_are_not_refused() -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks/faults/files.py"),
        "--faults",
        "12",
        "--layouts",
        "int4,gptq,nvfp4_modelopt",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "12 of 12 change what verify=PATH compares" in done.stdout


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_stage_whose_disk_is_full_ends_in_one_line_and_is_good_again() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/faults/limits.py"), "--only", "full: quantize"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "mount" in done.stderr:
        pytest.skip("this root may not mount")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "the disk is full: quantize: exit code 2" in done.stdout
    assert "0 limits after which something was not as it should be" in done.stdout


def test_a_disk_that_is_full_in_the_middle_is_said_in_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the run: the row that tells of it has no room either."""

    def full(file: Path, content: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    for module in ("pipeline.run", "report.unfinished"):
        monkeypatch.setattr(f"qforge.{module}.write_json", full)
    done = cli.inside("model=smollm2_135m", "plan_only=true")
    assert done.code == 2
    (line,) = [line for line in done.output.splitlines() if line.startswith(("failed:", "refused:"))]
    assert "No space left on device" in line
    assert line.endswith("free some space and run again")


def test_a_locale_that_is_not_utf8_is_no_matter(cli: Cli, tmp_path: Path) -> None:
    """Python would write files and names in ASCII there; only what it does by itself in the locale C is switched off."""
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = tmp_path / "\u00e9 \u65e5\u672c"
    done = cli("model=smollm2_135m", "plan_only=true", f"hydra.run.dir='{folder}'", environ=environ)
    assert done.code == 0, done.output
    assert (folder / "plan.json").is_file()
    assert str(folder) in done.output.replace("\n", "")
