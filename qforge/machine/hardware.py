"""What this machine has: its CPU, and the GPUs that their vendors' tools report. `hw=auto` takes the file that matches."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import yaml

from qforge.config.job import Vendor
from qforge.config.places import option_files
from qforge.machine import cpuinfo, nvidia

DEVICE_FILES = {Vendor.nvidia: "/dev/nvidiactl", Vendor.amd: "/dev/kfd", Vendor.cpu: "/proc/cpuinfo"}


@dataclass(frozen=True)
class Cpu:
    """A CPU; memory in GiB. `instructions` is what vLLM's kernels for it ask for: amx, avx512 or avx2."""

    cores: int
    memory_gib: float
    instructions: str


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its driver calls it; capability as in conf/hw; memory in GiB where it is known."""

    product: str
    capability: str
    memory_gib: float | None


@cache
def cpu() -> Cpu:
    """This machine's CPU. The flags are Linux's; elsewhere the least is assumed."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return Cpu(cores, psutil.virtual_memory().total / 2**30, instructions(cpuinfo.text()))


def instructions(text: str) -> str:
    """amx, avx512 or avx2, from the text of /proc/cpuinfo."""
    flags = cpuinfo.flags(text)
    return "amx" if "amx_tile" in flags else "avx512" if "avx512f" in flags else "avx2"


def detect() -> str:
    """The file of conf/hw for this machine. Raises ValueError for a GPU that no file describes."""
    gpus = [Gpu(d.product, d.capability, d.memory_gib) for d in nvidia.devices()] or amd()
    if not gpus:
        return "cpu"
    known = {product: file.stem for file in option_files("hw").values() for product in _hw(file).get("product", [])}
    names = {known.get(gpu.product) for gpu in gpus}
    if len(names) == 1 and None not in names:
        return str(names.pop())
    products = ", ".join(sorted({_text(gpu) for gpu in gpus}))
    if None not in names:
        raise ValueError(
            f"hw=auto: this machine has different GPUs ({products}); use hw={' or hw='.join(sorted(map(str, names)))}"
        )
    capabilities = {gpu.capability for gpu in gpus}
    like = sorted(name for name, file in option_files("hw").items() if _hw(file).get("capability") in capabilities)
    raise ValueError(
        f"hw=auto: no file in conf/hw is for {products}; use hw=NAME of the nearest, or write conf/hw/NAME.yaml after "
        f"{' or '.join(f'conf/hw/{name}.yaml' for name in like) or 'conf/hw/h100.yaml'} with its own product, capability, "
        "memory_gib, bandwidth_gbs and tflops"
    )


def has_gpu() -> bool:
    """Whether this machine has a GPU whose driver is loaded."""
    return any(Path(file).exists() for vendor, file in DEVICE_FILES.items() if vendor is not Vendor.cpu)


def amd() -> list[Gpu]:
    """AMD's GPUs, from amd-smi, or rocm-smi where only that is there. amd-smi prints what its Python library amdsmi says,
    which ROCm installs for the system's Python alone."""
    if text := _run("amd-smi", "static", "--asic", "--vram", "--json"):
        return parse_amd_smi(text)
    return parse_rocm_smi(_run("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"))


def parse_amd_smi(text: str) -> list[Gpu]:
    """From `amd-smi static --asic --vram --json`: a list, or since ROCm 7 an object with `gpu_data`."""
    content = json.loads(text)
    cards = content["gpu_data"] if isinstance(content, dict) else content
    return [
        Gpu(c["asic"]["market_name"], c["asic"]["target_graphics_version"], c["vram"]["size"]["value"] / 2**10)
        for c in cards
    ]


def parse_rocm_smi(text: str) -> list[Gpu]:
    """From `rocm-smi --showproductname --showmeminfo vram --json`: one object per card, and one of the system."""
    cards = [card for name, card in json.loads(text or "{}").items() if name.startswith("card")]
    return [Gpu(card["Card Series"], card["GFX Version"], _gib(card.get("VRAM Total Memory (B)"))) for card in cards]


def _gib(number: str | None) -> float | None:
    return int(number) / 2**30 if number else None


def _text(gpu: Gpu) -> str:
    memory = f", {gpu.memory_gib:.0f} GiB" if gpu.memory_gib else ""
    return f"{gpu.product} ({gpu.capability}{memory})"


def _hw(file: Path) -> dict[str, Any]:
    described: dict[str, Any] = yaml.safe_load(file.read_text())
    return described


def _run(*command: str) -> str:
    """What the tool prints; nothing where there is none, or where it finds no device."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
