"""Which machine this is. What of it decides results is defined here once: for keys, for the judge and for reports."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from typing import Any

import psutil

DECIDES = ("cpu", "cores", "gpus", "system")


def machine() -> dict[str, Any]:
    """The machine under this process, as the system names it: CPU, logical cores, GPUs with their drivers, kernel, GiB."""
    with open("/proc/cpuinfo") as lines:
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {
        "cpu": model, "cores": psutil.cpu_count(), "gpus": _gpus(), "system": platform.platform(), "memory_gib": memory,
    }  # fmt: skip


def deciding(machine: dict[str, Any]) -> dict[str, Any]:
    """What of a machine, as `machine` describes one, decides the results made on it.

    Not its memory: two nodes of one cluster differ by 0.1 GiB, and that of a virtual machine grows while it is used.
    """
    return {name: machine.get(name) for name in DECIDES}


@cache  # a run asks several times, and they do not change
def _gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []
