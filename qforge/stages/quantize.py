"""Model to packed checkpoint, by the library that the method names. The same files around the weights as the source."""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

from qforge.config.places import ROOT
from qforge.envs.lifetime import importing
from qforge.envs.request import Request, stage
from qforge.methods import kv_scales, omni_list
from qforge.methods.core import put_back
from qforge.methods.restore import restore
from qforge.models import checkpoint
from qforge.runtimes import inventory

UNQUANTIZED = "qforge.methods.kv_scales:unquantized"  # of a method that packs nothing


def quantize(request: Request) -> dict[str, Any]:
    """Writes the checkpoint to <out>/artifact. The method's function does the work; see qforge/methods/."""
    module, _, function = (request.job.method.function or UNQUANTIZED).partition(":")
    started = time.monotonic()
    with importing():
        work = getattr(importlib.import_module(module), function)
    imported = time.monotonic()
    calibration = request.inputs.get("calibration")
    sequences = json.loads(Path(calibration, "sequences.json").read_text()) if calibration else None
    source, artifact, core = Path(request.inputs["source"]), Path(request.out, "artifact"), request.core
    made = Path(request.out, "core") if core else artifact
    packed = Path(request.out, "packed") if request.simulate else made
    exempt, kept = request.exempt, request.kept
    if core:
        exempt, kept = core.all_inside(exempt), core.all_inside(kept)
    recipe: dict[str, Any] = work(
        request.job, Path(request.inputs["core"]) if core else source, packed, exempt, sequences
    )
    experts = recipe.pop("experts", None)
    if request.simulate:
        importlib.import_module("qforge.methods.rewriting").unpack(packed, made)
        shutil.rmtree(packed)
    restored = restore(Path(request.inputs["core"]) if core else source, made, kept)
    if core:
        put_back(core, made, source, artifact, request.exempt, request.kept)
        shutil.rmtree(made)
    omni_list.write(artifact)
    if scales := request.inputs.get("kv_scales"):
        kv_scales.add(Path(scales), artifact, request.job.kv.scheme)
    copy_companions(source, artifact)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "recipe": recipe,
        "restored": restored,
        "experts": {"tokens": sum(map(len, sequences)), **experts} if sequences and experts else None,
        "seconds": {"import": imported - started, "quantize": time.monotonic() - imported},
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_gib": usage.ru_maxrss / 2**20,
        "peak_device_gib": peak_device_gib(),
        "versions": inventory.versions(asked_for(request.job.method.env or "quant")),
    }


def asked_for(env: str) -> list[str]:
    """The packages that the environment's group in pyproject.toml names."""
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"][env]
    return [re.split(r"[\[=<>~ ]", requirement)[0] for requirement in group]


def peak_device_gib() -> float | None:
    """The most that torch held on the GPU; none where there is none."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def copy_companions(source: Path, artifact: Path) -> None:
    """Tokenizer, chat template, generation config ...: the source's own files, byte for byte.

    Libraries save them again in their own version's spelling, which other versions may not read.
    """
    for name in checkpoint.companions(source):
        (artifact / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, artifact / name)
    for file in artifact.rglob("*"):
        # safetensors writes 0600; and the weights are shared with every run that reuses them
        os.chmod(file, 0o755 if file.is_dir() else 0o444 if file.suffix == ".safetensors" else 0o644)


if __name__ == "__main__":
    stage(quantize)
