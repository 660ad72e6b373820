"""The bf16 form of a model that is published quantized: made once, into the store."""

from __future__ import annotations

from pathlib import Path

from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.models import checkpoint, quantization_config, quantized_source
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.store.results import code


def plain(run: Run, source: Path) -> Path:
    """`source`, or what it is unpacked to where it is packed."""
    if quantized_source.recognize(checkpoint.headers(source), quantization_config.read(source)) is None:
        return source
    key = {
        "source": run.fingerprint(source), "env": interpreters.identity(QUANT_ENV, run.job),
        "code": code("qforge.stages.unpack"),
    }  # fmt: skip

    def build(out: Path) -> None:
        with progress_line("unpack", f"{run.job.model.name} to bf16") as line:
            run.stage("unpack", interpreters.named(QUANT_ENV, run.job), out, line.feed, inputs={"source": str(source)})

    return run.get("unpack", key, build, f"{run.job.model.name} in bf16") / "model"
