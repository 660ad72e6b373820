"""Measure what each part of the model loses in 4 bits, then name the exemptions."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.job import Job, Rule
from qforge.config.places import given_path
from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.methods.rounding import recipe
from qforge.pipeline import unpack
from qforge.pipeline.run import Run
from qforge.plan import plan
from qforge.plan.exemptions import waits
from qforge.plan.plan import Plan
from qforge.plan.sensitivity import STAGE, Loss, budget_bytes, choose, losses_of, parts_of, requested
from qforge.report import terminal
from qforge.store.results import code, result

ENV = "quant"


def settle(run: Run, planned: Plan, source: Path, vllm: str) -> tuple[Run, Plan]:
    """Measure, where that is asked for; the waiting rules then name what was found, and the plan is made anew for `vllm`."""
    job = run.job
    if not requested(job):
        return run, planned
    measured = measure(run, planned, source)
    losses = choose(losses_of(job, planned, measured), budget_bytes(job))
    run.write(
        "sensitivity.json", {**measured, "all": fmean(measured["all"]), "parts": [asdict(loss) for loss in losses]}
    )
    terminal.sensitivity(measured, losses)
    if not any(map(waits, job.exempt.values())):
        return run, planned
    run = run.beside(replace(job, exempt=_named(job, losses, fmean(measured["all"]))), run.prefix)
    return run, plan.make(run.job, source, vllm)


def measure(run: Run, planned: Plan, source: Path) -> dict[str, Any]:
    """The stage's result and what it was measured on; found in the store, or measured."""
    job, settings = run.job, run.job.sensitivity
    content = given_path(job.eval.texts[settings.text].path).read_bytes()
    key = {
        "recipe": recipe(job.method), "group_size": planned.group_size, "quantized": planned.quantized,
        "job": decided_by(job, "sensitivity"), "text": hashlib.sha256(content).hexdigest(), "source": run.fingerprint(source),
        "env": interpreters.identity(ENV, job), "code": code("qforge.stages.sensitivity"),
    }  # fmt: skip
    where = interpreters.named(ENV, job)
    detail = f"{job.method.name}, {len(parts_of(job, planned))} x {settings.unit.value}"

    plain = source if run.store.find(STAGE, key) else unpack.plain(run, source)

    def build(out: Path) -> None:
        with progress_line(STAGE, detail) as line:
            run.stage(STAGE, where, out, line.feed, inputs={"source": str(plain)}, exempt=planned.ignore)
            line.note = detail

    folder = run.get(STAGE, key, build, detail)
    folder.with_suffix(".journal").unlink(missing_ok=True)
    searches = job.method.calibrated or "algorithm" in job.method.args  # ModelOpt's, for scales
    note = (
        f"{job.method.name} also searches for better values; this measurement rounds to nearest in its format"
        if searches
        else ""
    )
    return {
        **result(folder), "method": job.method.name, "group_size": planned.group_size, "unit": settings.unit.value,
        "text": settings.text, "windows": settings.windows, "length": settings.length, "note": note,
    }  # fmt: skip


def _named(job: Job, losses: list[Loss], whole: float) -> dict[str, Rule]:
    """The job's rules; what waited names what was chosen, or goes where nothing is worth it."""
    chosen = [loss for loss in losses if loss.exempted]
    if not chosen:
        terminal.warn("exempt: keeping a part in bf16 reduces no measured loss, so none is exempted")
        return {name: rule for name, rule in job.exempt.items() if not waits(rule)}
    saved, size = [loss.saved for loss in chosen], sum(loss.extra_bytes for loss in chosen)
    why = (
        f"sensitivity: of KL {whole:.4f} to bf16 each of these {len(chosen)} saves {min(saved):.4f} to {max(saved):.4f} by "
        f"itself; {size / 1e6:.1f} MB of a budget of {budget_bytes(job) / 1e6:.1f}"
    )
    names = [pattern for loss in chosen for pattern in loss.patterns]
    return {name: replace(rule, match=names, why=why) if waits(rule) else rule for name, rule in job.exempt.items()}
