"""Scales of an FP8 KV cache for a checkpoint whose method does not measure them itself, once for all such checkpoints."""

from __future__ import annotations

from pathlib import Path

from qforge.config.decides import decided_by
from qforge.config.job import Job
from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.json_files import read_json
from qforge.pipeline.alone import step
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.store.results import code, result

THEMSELVES = (
    "qforge.methods.llmcompressor",
    "qforge.methods.modelopt",
)  # measure them in the pass that they make anyway


def apart(job: Job) -> bool:
    """Whether the scales take a pass of their own."""
    return job.kv.calibrated and not str(job.method.function).startswith(THEMSELVES)


def measure(run: Run, source: Path, calibration: Path) -> Path:
    """The folder with the scales, as a checkpoint of nothing else; kv_scales.json."""
    key = {
        "job": decided_by(run.job, "kv_scales"), "strategy": run.job.kv.strategy, "source": run.fingerprint(source),
        "calibration": read_json(calibration / "result.json")["sha256"], "env": interpreters.identity(QUANT_ENV, run.job),
        "code": code("qforge.stages.kv_scales"),
    }  # fmt: skip

    def build(out: Path) -> None:
        where = interpreters.named(QUANT_ENV, run.job)
        with step(run), progress_line("kv_scales", "keys and values of the bf16 model") as line:
            inputs = {"source": str(source), "calibration": str(calibration)}
            run.stage("kv_scales", where, out, line.feed, inputs=inputs)
            line.note = f"{read_json(out / 'result.json')['scales']} scales of keys and values"

    folder = run.get("kv_scales", key, build, "the cache of bf16")
    run.write("kv_scales.json", result(folder))
    return folder
