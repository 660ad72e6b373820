"""Judging, scoring, progress: the small parts, on their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import ROOT

from qforge import judge
from qforge.config import Criterion, Gate
from qforge.perplexity import summary
from qforge.progress import fraction
from qforge.runtimes.vllm import not_language

GATE = Gate(
    "test",
    {
        "perplexity": Criterion("perplexity_increase_percent", at_most=5, why=""),
        "task": Criterion("task_drop_points", at_most=2, why=""),
        "speed": Criterion("tokens_per_second_gain_percent", at_least=60, concurrency=4, why=""),
    },
)


def results(loss: float = 3.0, noise: float = 0.1, right: float = 0.5, rate: float = 100.0, seed: int = 0) -> dict:
    """Results in the form of the stages, with the given mean loss, accuracy and tokens/s."""
    random = np.random.default_rng(seed)
    losses = [list(random.normal(loss, noise, 100)) for _ in range(20)]
    correct = [float(i < 200 * right) for i in range(200)]
    run = [{"output_throughput": rate * f} for f in (0.98, 1.0, 1.02)]
    return {
        "evaluate": {
            "through": "server",
            "texts": {"text": {**summary(losses), "windows_sha256": "w"}},
            "tasks": {"task": {"metrics": {"acc": right}, "prompt_hashes": "p", "per_sample": {"acc": correct}}},
        },
        "bench": {"input_len": 1, "output_len": 1, "runs": {"1": run, "4": run}},
    }


def verdicts(measured: dict, baseline: dict) -> dict[str, str]:
    found = judge.judge(GATE, measured, baseline)
    return {"": found["verdict"], **{c["criterion"]: c["verdict"] for c in found["criteria"]}}


def test_a_better_model_is_accepted_and_a_worse_one_rejected_by_the_criterion_it_misses() -> None:
    base = results()
    assert verdicts(results(rate=200), base)[""] == "accept"
    worse = verdicts(results(loss=3.2, rate=200), base)
    assert (worse[""], worse["perplexity"], worse["speed"]) == ("reject", "fail", "pass")
    dumber = verdicts(results(right=0.3, rate=200), base)
    assert (dumber[""], dumber["task"]) == ("reject", "fail")
    slower = verdicts(results(rate=90), base)
    assert (slower[""], slower["speed"]) == ("reject", "fail")


@pytest.mark.parametrize("seed", range(20))
def test_the_same_against_the_same_never_fails_on_quality(seed: int) -> None:
    found = verdicts(results(seed=seed), results(seed=seed))
    assert (found["perplexity"], found["task"]) == ("pass", "pass")


def test_an_interval_that_straddles_the_threshold_is_inconclusive() -> None:
    found = verdicts(results(loss=3.0 + math.log(1.05), noise=1.0, rate=200, seed=1), results(noise=1.0))
    assert (found[""], found["perplexity"]) == ("inconclusive", "inconclusive")


def test_what_was_not_measured_is_neither_passed_nor_failed() -> None:
    emulated = {**results(), "bench": {"not_measured": "emulated: no kernel"}}
    found = judge.judge(GATE, emulated, results())
    assert found["verdict"] == "not_measured"
    assert found["criteria"][-1]["reason"] == "emulated: no kernel"


def test_a_criterion_that_finds_nothing_is_not_passed() -> None:
    nothing = results(rate=200)
    nothing["evaluate"]["tasks"] = {}
    found = judge.judge(GATE, nothing, results())
    assert found["verdict"] == "not_measured"
    assert "evaluate measured nothing for it" in found["criteria"][1]["reason"]


def test_too_few_repeats_say_nothing_about_speed() -> None:
    once = results(rate=200)
    once["bench"]["runs"] = {c: runs[:1] for c, runs in once["bench"]["runs"].items()}
    assert verdicts(once, results())["speed"] == "inconclusive"


@pytest.mark.parametrize("key", ["windows_sha256", "prompt_hashes", "through"])
def test_a_comparison_under_other_conditions_is_refused(key: str) -> None:
    other = results()
    place = {"windows_sha256": other["evaluate"]["texts"]["text"], "prompt_hashes": other["evaluate"]["tasks"]["task"]}
    place.get(key, other["evaluate"])[key] = "other"
    with pytest.raises(ValueError, match=r"judge: .* differs between the model .* no fair comparison"):
        judge.judge(GATE, results(), other)


def test_the_change_and_its_interval_are_right() -> None:
    base, worse = results(), results(loss=3.1)
    (found,) = [c for c in judge.judge(GATE, worse, base)["criteria"] if c["criterion"] == "perplexity"]
    a, b = (r["evaluate"]["texts"]["text"]["perplexity"] for r in (worse, base))
    assert found["value"] == pytest.approx(100 * (a / b - 1))
    assert found["interval"][0] < found["value"] < found["interval"][1]


# -- progress


@pytest.mark.parametrize(
    ("line", "done", "what"),
    [
        ("(3/31): Calibrating:  50%|█████     | 32/64 [00:01<00:01, 30.1it/s]", (2 + 0.25) / 31, "calibrating 3/31"),
        ("(31/31): Propagating: 100%|██████████| 64/64 [00:01<00:00]", 1.0, "propagating 31/31"),
        ("perplexity wikitext:  25%|██▌       | 5/20 [00:10<00:30,  2.0s/it]", 0.25, "perplexity wikitext"),
        ("Requesting API:   3%|▎  | 12/400 [00:01<00:30]", 0.03, "requesting api"),
    ],
)  # fmt: skip
def test_progress_is_read_from_the_libraries_bars(line: str, done: float, what: str) -> None:
    found = fraction(line)
    assert found
    assert found[0] == pytest.approx(done)
    assert found[1] == what


def test_other_output_is_no_progress() -> None:
    assert fraction("INFO 11-21 GPU KV cache usage: 3.1%") is None
    assert fraction("") is None


# -- the server's words


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The capital of France is Paris.", None),
        ("Paris", None),
        ("", "empty"),
        ("!!!!####@@@@$$$$%%%%", "mostly symbols"),
        ("the the the the the the the the the the the the the", "the same words over and over"),
    ],
)
def test_the_canary_knows_language_from_garbage(text: str, fault: str | None) -> None:
    assert not_language(text) == fault


def test_no_file_is_longer_than_it_should_be() -> None:
    for file in (ROOT / "qforge").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 250, file
