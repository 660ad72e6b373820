"""Looking again and again at growing data errs no more often than looking once; a look that fails leaves the one before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.command import Cli, Finished
from support.jobs import job

from qforge.config.job import Criterion, Gate
from qforge.envs import managed
from qforge.judge import adaptive, verdict

GATE = Gate("test", {"perplexity": Criterion("perplexity_increase_percent", at_most=5, why="")})
TOKENS = 1023.0
FIRST = 20  # windows


def decided(random: np.random.Generator, looks: int, spend: bool) -> bool:
    """Whether a model that is worse by exactly the threshold is decided about, in windows of 20, 40, 80 ..."""
    more = TOKENS * random.normal(np.log1p(0.05), 0.05, FIRST * 2 ** (looks - 1))
    for look in range(looks):
        windows = FIRST * 2**look
        sides = [
            {"evaluate": {"made": {"machine": {}}, "through": "server", "context": 1, "versions": {}, "tasks": {}, "texts": {
                "text": {"window_loss": losses[:windows], "window_tokens": [TOKENS] * windows, "perplexity": 1.0,
                         "windows_sha256": "same"}}},
             "serve": {"not_measured": ""}, "bench": {"not_measured": ""}}
            for losses in (more, np.zeros(len(more)))
        ]  # fmt: skip
        if verdict.judge(GATE, *sides, looks if spend else 1)["verdict"] != "inconclusive":
            return True
    return False


def test_a_model_on_the_threshold_is_decided_in_five_percent_of_the_cases() -> None:
    """Of 300 models, looked at up to four times. With 95 % at each look it is more than twice as many."""
    random = np.random.default_rng(1)
    spent = sum(decided(random, 4, spend=True) for _ in range(300)) / 300
    once = sum(decided(random, 1, spend=True) for _ in range(300)) / 300
    each = sum(decided(random, 4, spend=False) for _ in range(300)) / 300
    assert spent <= 0.07, spent  # three standard errors above 5 % would be 0.088
    assert once <= 0.07, once
    assert each > 0.09, each


def test_the_error_of_a_look_is_pococks() -> None:
    """His constant for two looks is 2.178 standard errors; for more his are for equal steps, and ours for doubling."""
    assert adaptive.error(1) == pytest.approx(0.05, abs=1e-6)
    assert adaptive.error(2) == pytest.approx(0.0294, abs=1e-4)
    errors = [adaptive.error(looks) for looks in range(1, 9)]
    assert errors == sorted(errors, reverse=True)
    assert all(0.05 / looks <= error for looks, error in enumerate(errors, 1)), "never less than Bonferroni's"


@pytest.mark.parametrize(("budget", "looks"), [(1, 1), (2, 2), (7, 3), (8, 4)])
def test_the_budget_says_how_many_looks_there_can_be(budget: int, looks: int) -> None:
    first = job("eval.adaptive=true", f"eval.budget={budget}")
    assert adaptive.looks(first) == looks
    taken, now = 1, first
    undecided = {"verdict": "inconclusive", "criteria": [{"metric": "task_drop_points", "verdict": "inconclusive"}]}
    while larger := adaptive.more(first, now, undecided):
        taken, now = taken + 1, larger
    assert taken == looks
    assert adaptive.looks(job(f"eval.budget={budget}")) == 1, "without eval.adaptive there is one"


def test_the_verdict_says_at_which_level() -> None:
    nothing = {name: {"not_measured": "left out"} for name in ("serve", "evaluate", "bench")}
    once, four = (verdict.judge(GATE, nothing, nothing, looks) for looks in (1, 4))
    assert (once["looks"], once["confidence_percent"]) == (1, pytest.approx(95))
    assert (four["looks"], four["confidence_percent"]) == (4, pytest.approx(98.4, abs=0.01))


@pytest.mark.real
def test_a_stage_that_dies_in_a_later_look_leaves_the_earlier_verdict(cli: Cli, rtn: Finished, tmp_path: Path) -> None:
    """Evaluation's own Python, which dies when it scores for the third time: bf16 in the second look."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
if [ "$2" = qforge.stages.evaluate ]; then
    echo scored >> {tmp_path}/count
    [ $(wc -l < {tmp_path}/count) -lt 4 ] || exit 1
fi
exec {managed.managed("quant").python} "$@"
"""
    )
    python.chmod(0o755)
    done = cli.succeed(
        "method=rtn", f"artifact={rtn.folder / 'artifact'}", "eval=quick", "eval.context=64", "eval.tasks=[]",
        "runtime=existing", f"runtime.python={python}", "runtime.engine=transformers", "eval.divergence.windows=0",
        "stages=[evaluate,judge,report]", "gate.criteria.perplexity.at_most=50", "gate.criteria.task.at_most=50",
        "gate.criteria.task.metric=perplexity_increase_percent", "eval.windows=2", "eval.adaptive=true", "eval.budget=2",
    )  # fmt: skip
    assert "judged by the measurements so far: evaluate failed" in done.output
    assert done.json("verdict")["verdict"] == "inconclusive"
    assert {text["tokens"] for text in done.json("evaluate")["texts"].values()} == {2 * 63}, "of the first look"
    assert done.json("row")["conditions"]["windows"] == 2
