"""What a checkpoint was asked and answered, in the store and beside bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qforge.config.evaluation import Eval
from qforge.evaluation import answered, flips, mt_bench, own_answers
from qforge.judge.comparison import main_metric
from qforge.pipeline.run import Run
from qforge.store.results import key_of

ASKED = "answers.jsonl"  # in the store, by what is served
JUDGEMENTS = "judgements.jsonl"  # in the store, by the judge


def own_answers_names(measured: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """The baseline's own answers by their name, where both have scored them."""
    sides = [side.get("own_answers") or {} for side in (measured, baseline)]
    same = sides[0].get("windows_sha256") == sides[1].get("windows_sha256") is not None
    return [own_answers.NAME] if same else []


def changed(run: Run, measured: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """flips.json: the answers in chat that are worse than bf16's, by task; the worst few come back, for the row."""
    sides = (measured["evaluate"], baseline["evaluate"])
    if any("not_measured" in side for side in sides):
        return {}
    judged = {name: main_metric(task) for name, task in sides[0]["tasks"].items() if "asked" in task}
    own, reference = (answered.read(run.store.root / "evaluate" / side["key"]) for side in sides)
    found = flips.compare(own, reference, {name: metric for name, metric in judged.items() if metric})
    run.write("flips.json", found)
    return flips.shortened(found)


def journal(run: Run, served: Any) -> Path:
    """The file in the store with every answer in chat of what is served so: asked once, whatever else an evaluation asks.

    It belongs to no single evaluation, and grows while one runs: a run that is killed has lost no answer.
    """

    def build(out: Path) -> None:
        (out / ASKED).touch()

    folder, _ = run.store.get(
        "asked", {"served": key_of(served)}, build, f"{run.job.model.name}, {run.job.method.name}"
    )
    return folder / ASKED


def judgements(run: Run) -> Path:
    """The file in the store with what a judge said of answers that have a rubric: the same answer is judged once, whichever
    checkpoint gives it."""
    settings = run.job.eval.judge

    def build(out: Path) -> None:
        (out / JUDGEMENTS).touch()

    judge = {"base_url": settings.base_url, "model": settings.model, "judge_tokens": settings.judge_tokens}
    folder, _ = run.store.get("judgements", judge, build, f"rubrics, by {settings.model}")
    return folder / JUDGEMENTS


def holds_against(settings: Eval) -> bool:
    """Whether a checkpoint is held against what its baseline says, which is then measured first."""
    return settings.own_answers.prompts is not None or settings.judge.rates_mt_bench


def said_by(run: Run, baseline: dict[str, Any]) -> dict[str, Path]:
    """The files with what a baseline said that a checkpoint is held against, where it was asked for any."""
    key = baseline["evaluate"].get("key")
    files = {"own_answers": own_answers.FILE, "conversations": mt_bench.FILE}
    found = {name: run.store.root / "evaluate" / str(key) / file for name, file in files.items()}
    return {name: file for name, file in found.items() if key and file.exists()}
