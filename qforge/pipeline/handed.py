"""What the thinker hands to the talker after quantization, beside what it handed before."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.places import given_path
from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.json_files import read_json
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.plan.plan import Plan
from qforge.report import terminal
from qforge.store.results import code, result


def handed(run: Run, plan: Plan, artifact: Path, source: Path) -> dict[str, Any] | None:
    """handed.json; none where nothing speaks, or nothing was quantized."""
    job = run.job
    if plan.speech is None or artifact == source:
        return None
    text = given_path(job.eval.speech.questions).read_bytes()
    key = {
        "source": run.fingerprint(source), "checkpoint": run.fingerprint(artifact), "job": decided_by(job, "handed"),
        "text": hashlib.sha256(text).hexdigest(), "env": interpreters.identity(QUANT_ENV, job),
        "code": code("qforge.stages.handed"),
    }  # fmt: skip

    def build(out: Path) -> None:
        with progress_line(f"{run.prefix}handed", "") as line:
            inputs = {"source": str(source), "artifact": str(artifact)}
            run.stage("handed", interpreters.named(QUANT_ENV, job), out, line.feed, inputs=inputs)
            line.note = terminal.headline("handed", read_json(out / "result.json"))

    found = result(run.get("handed", key, build, job.method.name))
    run.write("handed.json", found)
    return found
