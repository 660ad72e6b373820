"""In the quantizer's environment: each request's job as a stream, to <out>/stream, and in memory, to <out>/memory."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import TypeAdapter

from qforge.envs.request import Request
from qforge.methods import llmcompressor, streaming
from qforge.methods.restore import restore

for file in sys.argv[1:]:
    request = TypeAdapter(Request).validate_json(Path(file).read_text())
    for name, quantize in (("stream", streaming.quantize), ("memory", llmcompressor.quantize)):
        source, out = Path(request.inputs["source"]), Path(request.out, name, "artifact")
        quantize(request.job, source, out, request.exempt, None)
        restore(source, out, request.kept)
