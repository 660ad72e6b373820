"""Told from chance or not: McNemar's test, the bootstrap's p-value, Holm's correction, and the gate that rests on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.jobs import job
from support.measured import results

from qforge.judge import comparison, goals, paired, verdict

ITEMS, SEEDS = 48, 3
TASKS = ("short_answers", "gsm8k_local", "instructions", "tool_calls")


@pytest.mark.parametrize(
    ("lost", "won", "p"), [(0, 0, 1), (5, 5, 1), (10, 2, 0.03857), (2, 10, 0.03857), (6, 0, 0.03125)]
)
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int, p: float) -> None:
    assert paired.mcnemar(lost, won) == pytest.approx(p, rel=1e-3)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired.holm([0.5, 0.9]) == [1.0, 1.0]


def test_scores_between_0_and_1_are_tested_by_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    same, worse = random.random(60), random.random(60)
    assert paired.p_value(same, same)[0] == 1
    p, why = paired.p_value(0.5 * worse, worse)
    assert p < 0.01
    assert why == "60 lower, 0 higher of 60, bootstrap"


@pytest.mark.parametrize("items", [12, 48, 200])
def test_a_p_value_is_no_smaller_than_the_draws_can_tell(items: int) -> None:
    """Where every draw loses, 20,000 of them say no more than that it is rarer than one of 20,000 on either side."""
    p, _ = paired.p_value(np.full(items, 1 / 3), np.ones(items))
    assert 2 / (paired.ROUNDS * 2000) <= p < 0.01
    assert items < 48 or p < 0.001
    assert paired.holm([p] * 5)[0] < 0.05, "five tasks are still told from chance"


def _answers(skill: float, seed: int) -> Any:
    """[tasks, items] mean scores of a model over its seeds: each item has its own chance, times `skill`."""
    chances = np.random.default_rng(1).beta(0.6, 0.6, (len(TASKS), ITEMS)) * skill
    drawn = np.random.default_rng(seed).random((SEEDS, len(TASKS), ITEMS)) < chances
    return drawn.mean(0)


def _judged(own: Any, other: Any) -> dict[str, Any]:
    sides = []
    for scores in (own, other):
        side = results()
        side["evaluate"]["tasks"] = {
            task: {
                "metrics": {"contains": float(of.mean())}, "prompt_hashes": "p", "judged": "contains",
                "per_sample": {"contains": of.tolist()}, "asked": {"broken": [0.0] * ITEMS},
            }
            for task, of in zip(TASKS, scores, strict=True)
        }  # fmt: skip
        sides.append(side)
    made = job("gate=chat")
    return goals.judge(made.gate, made.goals, *sides)


def test_the_same_model_is_never_rejected_over_20_seeds_and_a_damaged_one_always() -> None:
    """The same with other seeds: what differs is chance. Damaged: right half as often."""
    same = [_judged(_answers(1.0, seed), _answers(1.0, 1000 + seed))["verdict"] for seed in range(20)]
    assert "reject" not in same
    damaged = [_judged(_answers(0.5, seed), _answers(1.0, 1000 + seed))["verdict"] for seed in range(20)]
    assert set(damaged) == {"reject"}


def test_false_alarms_are_as_rare_as_is_said() -> None:
    """Of 100 pairs that differ by chance alone a task of any was found different in no more than 5 %."""
    alarms = 0
    for seed in range(100):
        p = [paired.p_value(a, b)[0] for a, b in zip(_answers(1, seed), _answers(1, 5000 + seed), strict=True)]
        alarms += min(paired.holm(p)) < 0.05
    assert alarms <= 5


def test_a_finding_says_by_which_test_and_how_likely_chance_is() -> None:
    found = _judged(_answers(0.5, 0), _answers(1.0, 1000))
    tasks = [c for c in found["criteria"] if c["metric"] == "answers_lost_points"]
    assert len(tasks) == len(TASKS)
    assert all(c["verdict"] == "fail" and c["p"] < 0.05 for c in tasks)
    assert "bootstrap p = " in tasks[0]["reason"]
    assert "after Holm over 4" in tasks[0]["reason"]


def test_a_margin_that_chance_crosses_is_inconclusive() -> None:
    made = job("gate=chat").gate
    criterion = made.criteria["task"]
    assert verdict.decide(criterion, (2.5, 9.0), 5.0, 0.2) == ("inconclusive", "")
    assert verdict.decide(criterion, (-1.0, 9.0), 5.0, 0.01) == ("fail", "")
    assert verdict.decide(criterion, (-1.0, 1.5), 0.2, 0.01) == ("pass", ""), "surely within the margin"


@pytest.mark.parametrize(
    "metric", ["prompt_level_strict_acc", "pass@1,create_test", "pass_at_1", "exact_match,strict-match"]
)
def test_generative_tasks_of_lm_eval_have_a_metric_that_is_judged(metric: str) -> None:
    assert comparison.main_metric({"per_sample": {"bleu": [0.5], metric: [1.0]}}) == metric
