"""In a quantizer's environment: each request's job by its method's own function, to <out>/artifact."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

from qforge.envs.request import Request

for file in sys.argv[1:]:
    request = TypeAdapter(Request).validate_json(Path(file).read_text())
    module, _, function = str(request.job.method.function).partition(":")
    quantize = getattr(importlib.import_module(module), function)
    sequences = json.loads(Path(request.inputs["sequences"]).read_text())
    made = quantize(
        request.job, Path(request.inputs["source"]), Path(request.out, "artifact"), request.exempt, sequences
    )
    Path(request.out, "made.json").write_text(json.dumps(made))
