"""A small part of benchmarks/faults/config.py: bad command lines, each in a fork, and values drawn from the schema."""

from __future__ import annotations

import subprocess
import sys

from support.command import ROOT


def test_bad_command_lines_end_as_refusals() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/faults/config.py"), "--examples", "6", "--every", "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 found; nothing was fetched" in done.stdout
