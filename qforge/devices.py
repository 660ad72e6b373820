"""The devices that a job needs on this machine. Raises ValueError where they are missing, before any work."""

from __future__ import annotations

from pathlib import Path

from qforge import provenance
from qforge.config import Job, Vendor

FILES = {Vendor.nvidia: "/dev/nvidiactl", Vendor.amd: "/dev/kfd", Vendor.cpu: "/proc/cpuinfo"}


def for_serving(job: Job) -> None:
    """Serving for a GPU needs one here."""
    vendor, file = job.hw.vendor, FILES[job.hw.vendor]
    if not Path(file).exists():
        raise ValueError(
            f"hw={job.hw.name}: this machine has no {vendor.value} GPU ({file} is missing); plan for it with "
            "plan_only=true, only quantize with stages=[quantize,inspect], or run here with hw=cpu"
        )


def quantizing(job: Job) -> int:
    """How many quantize, each with a process of its own; calibrated methods alone have work to share."""
    return job.calib.devices if job.method.calibrated and not job.artifact else 1


def for_quantizing(job: Job) -> None:
    """As many GPUs as calib.devices says."""
    asked = quantizing(job)
    if asked > 1 and asked > (found := len(provenance.hardware()["gpus"])):
        raise ValueError(
            f"calib.devices={asked}: this machine has {found} NVIDIA GPUs; use calib.devices={max(found, 1)}"
        )
