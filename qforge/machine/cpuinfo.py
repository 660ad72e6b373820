"""What /proc/cpuinfo says of the CPU; the only place that reads it. The standard library alone: others' environments use it."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def text() -> str:
    """The whole file; empty where the system is not Linux."""
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.exists() else ""


def model(cpuinfo: str) -> str:
    """The CPU as its maker calls it; `unknown` where that is not said (most ARM machines)."""
    return _first(cpuinfo, "model name") or "unknown"


def flags(cpuinfo: str) -> list[str]:
    """The instruction sets: avx2, amx_tile ...; on ARM its features."""
    return (_first(cpuinfo, "flags") or _first(cpuinfo, "Features")).split()


def _first(cpuinfo: str, name: str) -> str:
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")
