"""What a server uses while it works: memory of its processes and, where nvidia-smi is, of its GPUs, and their power."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

EVERY = 1.0  # seconds between samples; one costs about 10 ms of a core


@dataclass
class Usage:
    """Samples of one stretch of work."""

    resident_gib: list[float] = field(default_factory=list)
    gpu_gib: list[float] = field(default_factory=list)
    gpu_watts: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self, tokens: int) -> dict[str, float]:
        """Peaks, and the energy for each of `tokens`, idle power included. What was not sampled is not in it."""
        figures = {"peak_resident_gib": max(self.resident_gib)}
        if self.gpu_gib:
            figures["gpu_peak_gib"] = max(self.gpu_gib)
        if self.gpu_watts:
            watts = sum(self.gpu_watts) / len(self.gpu_watts)
            figures |= {"gpu_watts": watts, "gpu_joules_per_token": watts * self.seconds / tokens}
        return figures


@contextmanager
def sampled(group: int) -> Iterator[Usage]:
    """Sample the process group while the block runs: at its begin, at its end and every EVERY seconds between."""
    usage, done, started = Usage(), threading.Event(), time.monotonic()

    def watch() -> None:
        while True:
            last = done.wait(EVERY if usage.resident_gib else 0)
            usage.resident_gib.append(resident_gib(group))
            memory, power = gpus()
            usage.gpu_gib += [memory] if memory else []
            usage.gpu_watts += [power] if power else []
            if last:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield usage
    finally:
        usage.seconds = time.monotonic() - started
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


def gpus() -> tuple[float | None, float | None]:
    """GiB used on, and watts drawn by, the GPUs that this process may use (CUDA_VISIBLE_DEVICES), or none."""
    if shutil.which("nvidia-smi") is None:
        return None, None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=memory.used,power.draw", "--format=csv,noheader,nounits"]
    done = subprocess.run([*command, *(["-i", visible] if visible else [])], capture_output=True, text=True)
    return parse(done.stdout) if done.returncode == 0 else (None, None)


def parse(output: str) -> tuple[float | None, float | None]:
    """Sums over the lines of nvidia-smi, "MiB, W" each; none of what a GPU does not tell ("[N/A]")."""
    columns = [[part.strip() for part in line.split(",")] for line in output.splitlines()]
    memory, power = (
        sum(map(float, column)) if all(part.replace(".", "", 1).isdigit() for part in column) else None
        for column in zip(*columns, strict=True)
    )
    return memory / 1024 if memory is not None else None, power
