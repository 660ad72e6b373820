"""What a server uses while it works: memory of its processes, and of NVIDIA's GPUs their memory and power."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import fmean

import psutil

from qforge.machine import nvidia

EVERY = 1.0  # seconds between samples; one costs about 10 ms of a core


@dataclass
class Usage:
    """Samples of one stretch of work. Times are those of time.perf_counter()."""

    resident_gib: list[float] = field(default_factory=list)
    gpu_gib: list[float] = field(default_factory=list)
    gpu_watts: list[tuple[float, float]] = field(default_factory=list)  # time and power
    began: float = 0.0
    ended: float = 0.0

    def summary(self, tokens: int, within: tuple[float, float] | None = None) -> dict[str, float]:
        """Peaks, and the mean power and the energy for each of `tokens` from one time to another (none: of the whole stretch),
        what the GPUs take when idle included. What was not sampled is not in it.

        A sample of power is the mean of the second before it (nvmlDeviceGetPowerUsage, since Ampere): it counts where it lies
        in that time by more than half, or alone if none does and it comes closest to the end.
        """
        figures = {"peak_resident_gib": max(self.resident_gib)}
        if self.gpu_gib:
            figures["gpu_peak_gib"] = max(self.gpu_gib)
        if self.gpu_watts:
            began, ended = within or (self.began, self.ended)
            inside = [watts for time, watts in self.gpu_watts if began < time - EVERY / 2 < ended]
            watts = fmean(inside or [min(self.gpu_watts, key=lambda sample: abs(sample[0] - ended))[1]])
            figures |= {"gpu_watts": watts, "gpu_joules_per_token": watts * (ended - began) / tokens}
        return figures


@contextmanager
def sampled(group: int) -> Iterator[Usage]:
    """Sample the process group while the block runs: at its begin, at its end and every EVERY seconds between."""
    usage, done = Usage(began=time.perf_counter()), threading.Event()

    def watch() -> None:
        while True:
            last = done.wait(EVERY if usage.resident_gib else 0)
            usage.resident_gib.append(resident_gib(group))
            gpus = nvidia.load()
            usage.gpu_gib += [gpus.memory_gib] if gpus.memory_gib else []
            usage.gpu_watts += [(time.perf_counter(), gpus.watts)] if gpus.watts else []
            if last:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield usage
    finally:
        usage.ended = time.perf_counter()
        done.set()
        watcher.join()


def resident_gib(group: int) -> float:
    """Memory of a process group, shared pages counted once (Linux PSS), in GiB."""
    total = 0
    for process in members(group):
        with suppress(psutil.Error):  # it has ended meanwhile
            total += process.memory_full_info().pss
    return total / 2**30


def members(group: int) -> list[psutil.Process]:
    """The processes of a group."""
    processes = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group:
                processes.append(process)
    return processes
