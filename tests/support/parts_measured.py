"""In the quantizer's environment: what rounding gives beside what is stored, and sensitivity without an interruption."""

import sys
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from qforge import json_files
from qforge.envs.request import Request
from qforge.json_files import to_json
from qforge.methods.rewriting import unpack
from qforge.models import checkpoint
from qforge.models.modules import from_tensors
from qforge.stages.sensitivity import Subject, sensitivity


def compare(request: Request, artifact: Path) -> None:
    """Every quantized matrix of the artifact is what the rounding says, bit for bit."""
    source, plain = Path(request.inputs["source"]), Path(request.out, "plain")
    tree = from_tensors(checkpoint.headers(source), json_files.read_json(source / "config.json"))
    matrices = [m for m in tree if m.linear and m.name not in request.exempt]
    unpack(artifact, plain)
    stored = {k: v for file in plain.glob("*.safetensors") for k, v in load_file(file).items()}
    for name, value in Subject(request.job, source, matrices).rounded(matrices).items():
        assert torch.equal(value.bfloat16(), stored[f"{name}.weight"]), (request.job.method.name, name)


for file in sys.argv[1:]:
    request = TypeAdapter(Request).validate_json(Path(file).read_text())
    if "artifact" in request.inputs:
        compare(request, Path(request.inputs["artifact"]))
    else:
        Path(request.out, "result.json").write_text(to_json(sensitivity(request)))
