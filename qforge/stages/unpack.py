"""A model that is published quantized into a plain bf16 checkpoint, a few megabytes at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qforge.envs.lifetime import importing
from qforge.envs.request import Request, stage
from qforge.stages.quantize import copy_companions


def unpack(request: Request) -> dict[str, Any]:
    """Writes <out>/model. Input: `source`, the checkpoint as it is published."""
    with importing():
        from qforge.methods import rewriting

    source, out = Path(request.inputs["source"]), Path(request.out, "model")
    rewriting.unpack(source, out)
    copy_companions(source, out)
    return {"source": str(source)}


if __name__ == "__main__":
    stage(unpack)
