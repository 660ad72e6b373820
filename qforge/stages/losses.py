"""What each part of the model loses in one format: KL(bf16 || model) with it alone in that format, and with all of them.

The same measurement as stages/sensitivity.py, without the other way round; its result is kept for each format by itself.
"""

from __future__ import annotations

import importlib.metadata
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from qforge import json_files
from qforge.envs.request import Request, stage
from qforge.models import checkpoint, structure
from qforge.models.modules import from_tensors
from qforge.models.parts import parts
from qforge.stages.sensitivity import ALL, ALONE, Journal, Subject, measure_alone


def losses(request: Request) -> dict[str, Any]:
    """Returns KL in nats per token, window by window: of each part, and of `all` together. The job's method makes one."""
    started = time.monotonic()
    source, model = Path(request.inputs["source"]), request.job.model
    built = structure.read(Path(model.structure)) if model.structure else None
    tree = from_tensors(checkpoint.headers(source), json_files.read_json(source / "config.json"), built)
    exempt = set(request.exempt)
    quantized = parts([m for m in tree if m.linear and m.name not in exempt], request.job.sensitivity.unit)
    matrices = [m for part in quantized for m in part.modules]
    subject = Subject(request.job, source, matrices)
    journal = Journal(Path(request.out).with_suffix(".journal"))
    with tqdm(total=len(quantized) + 1, desc="losses") as bar:
        for _ in measure_alone(subject, quantized, journal):
            bar.update()
    return {
        "tokens": subject.tokens,
        "all": journal[ALL, ""],
        "parts": {part.name: journal[ALONE, part.name] for part in quantized},
        "seconds": time.monotonic() - started,
        "device": str(subject.model.device),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }


if __name__ == "__main__":
    stage(losses)
