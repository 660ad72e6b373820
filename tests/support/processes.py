"""Processes of this machine, and waiting for what they do."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def wait_for_output(log: Path, text: str, process: subprocess.Popen[str], patience: float = 300) -> None:
    deadline = time.monotonic() + patience
    while not log.exists() or text not in log.read_text():
        assert time.monotonic() < deadline, f"no {text!r} in {log}"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)


def processes_with(text: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if text in line and process.pid != os.getpid():
            found.append(line)
    return found


def until(true: Callable[[], object], seconds: float = 120) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, true
        time.sleep(0.2)


def wait_for(found: Callable[[], list[Path]]) -> list[Path]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if files := found():
            return files
        time.sleep(0.002)
    raise TimeoutError
