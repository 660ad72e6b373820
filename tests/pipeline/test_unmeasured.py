"""A gate that must hold, of a run that will not measure what it asks: a note of the plan, with the key and the fix."""

from __future__ import annotations

import pytest
from support.command import Cli
from support.jobs import job

from qforge.judge.metrics import METRICS
from qforge.pipeline import unmeasured
from qforge.plan import plan


def notes(*overrides: str) -> list[str]:
    made = job(*overrides)
    return unmeasured.notes(made, plan.make(made, None))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["gate=chat", "eval=quick"], "broken is measured only where one of eval.tasks=['data/tasks/arc_easy.yaml'] is "),
        (["gate=throughput", "stages=[quantize,serve,evaluate,judge]"], "throughput will not be measured, so that the gate "
         "cannot hold: stages=['quantize', 'serve', 'evaluate', 'judge'] leaves bench out; add it, or use another gate"),
        (["gate=throughput", "runtime=transformers"], "throughput will not be measured...runtime.timed=true"),
        (["gate=quality", "stages=[quantize,serve,bench,judge]"], "perplexity and task will not be measured, ... evaluate out"),
        (["gate=quality", "stages=[quantize,evaluate,judge]"], "perplexity and task ... leaves serve out"),
        (["gate=quality", "eval.tasks=[]"], "task will not be measured...: it takes eval.tasks; give that"),
        (["gate=faithful", "eval.divergence.windows=0"], "divergence and agreement...: it takes eval.divergence.windows"),
        (["gate=strategy", "eval.stability.load_seconds=0"], "load will not ... and eval.stability.load_seconds; give that"),
        (["gate=chat", "eval.chat=false"], "broken will not be measured, ... asked in chat"),
    ],
)  # fmt: skip
def test_what_will_not_be_measured_is_said(overrides: list[str], said: str) -> None:
    (note,) = notes("method=rtn", *overrides)
    assert note.startswith(f"{overrides[0]}: ")
    assert note.endswith(", or use another gate")
    assert all(part in note for part in said.split("..."))


@pytest.mark.parametrize(
    "overrides",
    [
        ["gate=chat", "eval=chat"],
        ["gate=strategy"],
        ["gate=memory"],
        ["stages=[quantize,inspect,judge]"],  # whose gate need not hold
        ["gate=strategy", "stages=[quantize,inspect]"],
        ["gate=strategy", "method=bf16", "eval.tasks=[]"],
    ],
)
def test_what_is_measured_or_not_judged_needs_no_note(overrides: list[str]) -> None:
    assert notes("method=rtn", *overrides) == []


def test_each_metric_that_an_evaluation_may_leave_out_is_known() -> None:
    """Of a job that asks for none of them only perplexity is found."""
    bare = job("method=rtn", "eval.tasks=[]", "eval.divergence.windows=0", "eval.stability.prompts=null")
    evaluated = [name for name, metric in METRICS.items() if metric.stage in ("evaluate", "divergence")]
    assert [name for name in evaluated if unmeasured._configured(bare, name) is None] == ["perplexity_increase_percent"]


def test_the_plan_has_the_note(cli: Cli) -> None:
    done = cli.succeed_inside("method=rtn", "plan_only=true", "gate=faithful", "eval.divergence.windows=0")
    assert any("it takes eval.divergence.windows" in note for note in done.json("plan")["notes"])
    assert "it takes eval.divergence.windows" in " ".join(done.output.split())
