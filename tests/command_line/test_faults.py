"""A small part of benchmarks/faults: bad command lines, each in a fork, values drawn from the schema, and bad files."""

from __future__ import annotations

import subprocess
import sys

from support.command import ROOT


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
