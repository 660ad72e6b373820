"""Which machine this is. What of it decides results is defined here once: for keys, for the judge and for reports."""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import psutil

from qforge.machine import cpuinfo, nvidia

DECIDES = ("cpu", "cores", "gpus", "system")


def machine() -> dict[str, Any]:
    """The machine under this process, as the system names it: CPU, logical cores, GPUs with their drivers, kernel, GiB."""
    model = cpuinfo.model(cpuinfo.text())
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
    """As nvidia-smi lists them: name, memory, driver."""
    return [f"{d.product}, {_mib(d.memory_gib)}, {d.driver}" for d in nvidia.devices()]


def _mib(gib: float | None) -> str:
    return "[N/A]" if gib is None else f"{gib * 1024:.0f} MiB"
