"""The text core of a multimodal model, taken out for the libraries that quantize it alone."""

from __future__ import annotations

from pathlib import Path

from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.plan.plan import Plan
from qforge.store.results import code, result


def taken_out(run: Run, plan: Plan, source: Path) -> Path:
    """The folder whose `model` is the core as a checkpoint of its own."""
    model = run.job.model
    key = {
        "source": run.fingerprint(source), "core": plan.core, "trusted": model.trust_remote_code,
        "structure": Path(model.structure).parent.name if model.structure else None,
        "code": code("qforge.stages.core"), "env": interpreters.identity(QUANT_ENV, run.job),
    }  # fmt: skip

    def build(out: Path) -> None:
        with progress_line("core", model.name) as line:
            where = interpreters.named(QUANT_ENV, run.job)
            run.stage("core", where, out, line.feed, inputs={"source": str(source)}, core=plan.core)
            line.note = f"{model.name}: the text alone, whose logits are the whole model's"

    folder = run.get("core", key, build, model.name)
    run.write("core.json", result(folder))
    return folder
