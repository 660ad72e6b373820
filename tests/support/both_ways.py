"""In the quantizer's environment: each request's job as a stream, to <out>/stream, and in memory, to <out>/memory."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from qforge.config.job import Job
from qforge.envs.request import Request
from qforge.json_files import read_json
from qforge.methods import llmcompressor, streaming
from qforge.methods.restore import restore


def whole(job: Job, streamed: Path) -> Job:
    """The same for the library itself: of a mix the recipe is what the stream says that it made."""
    if not job.method.formats:
        return job
    groups = read_json(streamed / "config.json")["quantization_config"]["config_groups"]
    return replace(job, method=replace(job.method, args={"QuantizationModifier": {"config_groups": groups}}))


for file in sys.argv[1:]:
    request = TypeAdapter(Request).validate_json(Path(file).read_text())
    source, streamed = Path(request.inputs["source"]), Path(request.out, "stream", "artifact")
    memory = Path(request.out, "memory", "artifact")
    streaming.quantize(request.job, source, streamed, request.exempt, None)
    llmcompressor.quantize(whole(request.job, streamed), source, memory, request.exempt, None)
    for out in (streamed, memory):
        restore(source, out, request.kept)
