"""One run as one row: what was made, what was measured, against what, under which conditions. The schema of results/."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import OmegaConf

from qforge import provenance
from qforge.checkpoint import read_json, tensor_bytes
from qforge.comparisons import main_metric
from qforge.config import Job
from qforge.plan import Plan
from qforge.request import to_json


def make(
    job: Job, plan: Plan, artifact: Path, measured: dict[str, Any], baseline: dict[str, Any] | None, verdict: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """The row, from the results as they are stored. What was not measured says so, and why."""
    quantized = read_json(folder / "quantize.json") if (folder / "quantize.json").exists() else None
    size = tensor_bytes(artifact)
    row = {
        "model": job.model.name,
        "method": job.method.name,
        "summary": job.method.summary,
        "layout": plan.layout,
        "group_size": plan.group_size,
        "exempt": {rule: _exempted(job, plan, rule) for rule in job.exempt},
        "notes": plan.notes,
        "caution": job.model.caution,
        "verdict": verdict["verdict"],
        "gate": job.gate,
        "criteria": verdict["criteria"],
        "size": {
            "parameters": plan.parameters, "bytes": size, "bf16_bytes": plan.bf16_bytes,
            "bits_per_weight": 8 * size / plan.parameters, "quantized_bits_per_weight": plan.quantized_bits_per_weight,
        },
        "serving": plan.serving,
        "measured": _numbers(measured),
        "baseline": _numbers(baseline) if baseline else None,
        "quantize": quantized,
        "conditions": {
            "hw": job.hw.name, "runtime": job.runtime.name, "runtime_args": {**job.hw.args, **job.runtime.args},
            "environ": job.runtime.environ, "context": job.eval.context, "windows": job.eval.windows,
            "task_samples": job.eval.limit, "input_len": job.bench.input_len, "output_len": job.bench.output_len,
            "repeats": job.bench.repeats, "calibrated_on": sorted(job.calib.texts) if job.method.calibrated else [],
        },
        **_made(measured, quantized),
        "command": command(folder),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(to_json(row))
    return plain


def _made(measured: dict[str, Any], quantized: dict[str, Any] | None) -> dict[str, Any]:
    """Date, machine and commit of the measurements, or of the checkpoint where nothing was measured."""
    stamps = [measured[stage]["made"] for stage in ("evaluate", "bench", "serve") if "made" in measured[stage]]
    stamps += [quantized["made"]] if quantized else []
    made: dict[str, Any] = stamps[0] if stamps else provenance.now()
    return made


def command(folder: Path) -> str:
    """How to run it again, from what Hydra wrote down."""
    file = folder / ".hydra" / "overrides.yaml"
    overrides: Any = OmegaConf.load(file) if file.exists() else []
    return shlex.join(["python", "run.py", *map(str, overrides)])


def _exempted(job: Job, plan: Plan, rule: str) -> dict[str, Any]:
    modules = [name for name, by in plan.exempt.items() if by == rule]
    return {"match": job.exempt[rule].match, "why": job.exempt[rule].why, "modules": modules}


def _numbers(measured: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a set of measurements, without the windows and samples they rest on."""
    serve, evaluate, bench = measured["serve"], measured["evaluate"], measured["bench"]
    numbers: dict[str, Any] = {"serve": serve, "evaluate": evaluate, "bench": bench}
    if "texts" in evaluate:
        texts = {
            name: {k: text[k] for k in ("perplexity", "tokens", "kind")} for name, text in evaluate["texts"].items()
        }
        tasks = {
            name: {"metrics": task["metrics"], "samples": task["samples"], "judged": main_metric(task)}
            for name, task in evaluate["tasks"].items()
        }
        numbers["evaluate"] = {**evaluate, "texts": texts, "tasks": tasks}
    if "runs" in bench:
        runs = {c: {k: median(r[k] for r in repeats) for k in repeats[0]} for c, repeats in bench["runs"].items()}
        spread = {
            c: [min(s), max(s)]
            for c, s in ((c, [r["output_throughput"] for r in rs]) for c, rs in bench["runs"].items())
        }
        numbers["bench"] = {**bench, "runs": runs, "tokens_per_second_range": spread}
    return numbers
