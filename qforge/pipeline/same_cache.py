"""bf16 weights with the KV cache of the run, beside the baseline with a bf16 cache: do the weights lose, or the cache?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qforge.config.job import Job
from qforge.judge import adaptive, goals
from qforge.pipeline import artifact
from qforge.pipeline.asked import said_by
from qforge.pipeline.measure import compared, measure
from qforge.pipeline.run import Run
from qforge.plan import plan

QUALITY = ["quantize", "inspect", "serve", "evaluate"]


def judged(run: Run, bf16: Job, source: Path, baseline: dict[str, Any]) -> dict[str, Any] | None:
    """Whether bf16 weights are sound with the run's cache, measured once for all methods; `bf16`: the baseline's job.

    None where the cache is the baseline's or the weights are bf16 already, and of a given artifact, whose scales are its own.
    """
    job = run.job
    if job.kv.plain or job.artifact or not job.method.function:
        return None
    other = replace(bf16, kv=job.kv, stages=QUALITY, eval=replace(bf16.eval, kv_dtypes=[]))
    beside = run.beside(other, "bf16-kv-same-")
    planned = plan.make(other, source)
    checkpoint = artifact.checkpoint(beside, planned, source)
    artifact.inspect(beside, planned, checkpoint, source)
    measured = measure(beside, planned, checkpoint, said_by(run, baseline))
    measured["divergence"] = compared(beside, measured, baseline)
    verdict = goals.judge(job.gate, job.goals, measured, baseline, adaptive.looks(job))
    return {"kv": job.kv.name, **verdict["sound"], "says": verdict["says"].partition("; ")[0]}
