"""NVIDIA's driver library as a small C library: what nvidia-ml-py asks of it is answered from a list of GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.command import ROOT

SOURCE = r"""
#include <stdint.h>
#include <string.h>
#include <stdio.h>
#include <stdlib.h>
typedef struct { const char *name, *uuid; int major, minor; long long total, used; int milliwatts; } Gpu;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
static Gpu gpus[] = { %s };
static char parts[8];  // a MIG device of each
enum { COUNT = %d, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9 };
int nvmlInitWithFlags(unsigned flags) { return COUNT ? 0 : DRIVER_NOT_LOADED; }
const char *nvmlErrorString(int code) { return "error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "580.95.05"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **handle) { *handle = &gpus[i]; return i < COUNT ? 0 : NOT_FOUND; }
int nvmlDeviceGetName(Gpu *gpu, char *text, unsigned length) { snprintf(text, length, "%%s", gpu->name); return 0; }
int nvmlDeviceGetUUID(Gpu *gpu, char *text, unsigned length) { snprintf(text, length, "%%s", gpu->uuid); return 0; }
int nvmlDeviceGetCudaComputeCapability(Gpu *gpu, int *major, int *minor) {
    *major = gpu->major; *minor = gpu->minor; return 0;
}
int nvmlDeviceGetMemoryInfo_v2(Gpu *gpu, Memory *memory) {
    if (gpu->total < 0) return NOT_SUPPORTED;
    memory->total = gpu->total << 20; memory->used = gpu->used << 20; return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    for (int i = 0; i < COUNT; i++) if (!strncmp(uuid, "MIG-", 4) && uuid[4] == gpus[i].uuid[4]) {
        *handle = &parts[i]; return 0;
    }
    return NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *part, void **gpu) {
    for (int i = 0; i < COUNT; i++) if (part == &parts[i]) { *gpu = &gpus[i]; return 0; }
    return NOT_FOUND;
}
int nvmlDeviceGetMigMode(Gpu *gpu, unsigned *now, unsigned *next) {
    *now = *next = getenv("TEST_MIG") != 0; return 0;
}
int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *milliwatts) {
    *milliwatts = gpu->milliwatts; return gpu->milliwatts < 0 ? NOT_SUPPORTED : 0;
}
"""


@dataclass(frozen=True)
class Card:
    """A GPU; memory in MiB; none for what the driver does not tell of it."""

    name: str
    capability: str
    memory: int | None
    used: int = 0
    watts: float | None = 70.5

    def c(self, number: int) -> str:
        total, watts = (-1 if value is None else value for value in (self.memory, self.watts))
        capability = self.capability.replace(".", ", ")
        milliwatts = -1 if watts == -1 else int(1000 * watts)
        return f'{{"{self.name}", "GPU-{number}{number}{number}{number}", {capability}, {total}, {self.used}, {milliwatts}}}'


def driver(folder: Path, *cards: Card) -> dict[str, str]:
    """A driver for these GPUs, none of which works where there are none; the environment in which it is found."""
    folder.mkdir(exist_ok=True)
    (folder / "nvml.c").write_text(SOURCE % (", ".join(card.c(n) for n, card in enumerate(cards)) or "{0}", len(cards)))
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, folder / "nvml.c"], check=True)
    return {"LD_LIBRARY_PATH": str(folder), "PATH": str(folder)}


def ask(code: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which finds that driver."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **environ}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
