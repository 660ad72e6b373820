"""NVIDIA's GPUs, as their driver's library tells of them (NVML, through nvidia-ml-py); the only place that asks it.

The control environment has nvidia-ml-py, and so has vLLM's. In an environment without it no GPU is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Device:
    """One GPU. `capability`: as in conf/hw; `memory_gib`: none where the GPU has no memory of its own (Jetsons)."""

    product: str
    capability: str
    memory_gib: float | None
    driver: str


@dataclass(frozen=True)
class Load:
    """What GPUs use together; none of what one of them does not tell."""

    memory_gib: float | None
    watts: float | None


def devices() -> list[Device]:
    """Every GPU of this machine; empty without a driver."""
    nvml = _nvml()
    return [_device(nvml, nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(nvml.nvmlDeviceGetCount())] if nvml else []


def load() -> Load:
    """Of the GPUs that this process may use (CUDA_VISIBLE_DEVICES)."""
    nvml = _nvml()
    handles = list(_visible(nvml, os.environ.get(VISIBLE))) if nvml else []
    memory = [_memory(nvml, handle, "used") for handle in handles]
    milliwatts = [_told(nvml, nvml.nvmlDeviceGetPowerUsage, handle) for handle in handles]
    watts = _sum(milliwatts)
    return Load(_sum(memory), watts / 1000 if watts is not None else None)


def visible(environ: Mapping[str, str]) -> list[str] | None:
    """UUIDs of the GPUs that a process with these variables may use, of a MIG device that of the GPU it is a part of.

    None where they cannot be told: without a driver, and for numbers where CUDA counts in another way than the driver, which
    is by speed where GPUs differ (unless CUDA_DEVICE_ORDER=PCI_BUS_ID) and by MIG devices where there are any.
    """
    nvml = _nvml()
    if not nvml:
        return None
    listed = environ.get(VISIBLE)
    numbers = any(entry.strip().isdigit() for entry in (listed or "").split(","))
    if numbers and not _counts_alike(nvml, environ):
        return None
    return sorted({nvml.nvmlDeviceGetUUID(_whole(nvml, handle)) for handle in _visible(nvml, listed)})


def _counts_alike(nvml: Any, environ: Mapping[str, str]) -> bool:
    every = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    ordered = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len(set(map(nvml.nvmlDeviceGetName, every))) == 1
    return ordered and not any((_told(nvml, nvml.nvmlDeviceGetMigMode, handle) or [0])[0] for handle in every)


def _whole(nvml: Any, handle: Any) -> Any:
    """The GPU of a MIG device; of a GPU, itself."""
    return _told(nvml, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle) or handle


@cache
def _nvml() -> Any:
    """The library, begun once in a process; none where it, the driver or every GPU is missing."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or one that does not work
        return None
    return pynvml


def _device(nvml: Any, handle: Any) -> Device:
    capability = "{}.{}".format(*nvml.nvmlDeviceGetCudaComputeCapability(handle))
    memory, driver = _memory(nvml, handle, "total"), nvml.nvmlSystemGetDriverVersion()
    return Device(nvml.nvmlDeviceGetName(handle), capability, memory, driver)


def _visible(nvml: Any, listed: str | None) -> Iterator[Any]:
    """Handles, as CUDA reads its variable: numbers or (beginnings of) UUIDs, up to the first that does not exist."""
    every = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    if listed is None:
        yield from every
        return
    for entry in map(str.strip, listed.split(",")):
        if entry.isdigit() and int(entry) < len(every):
            yield every[int(entry)]
        elif entry.startswith("MIG-"):
            yield from filter(None, [_told(nvml, nvml.nvmlDeviceGetHandleByUUID, entry)])
        elif entry and (of := next((h for h in every if nvml.nvmlDeviceGetUUID(h).startswith(entry)), None)):
            yield of
        else:
            return


def _memory(nvml: Any, handle: Any, part: str) -> float | None:
    """GiB, as nvidia-smi counts: what the driver keeps for itself is not used."""
    info = _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
    return getattr(info, part) / 2**30 if info else None


def _told(nvml: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """The answer; none where this GPU has none."""
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return None


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
