"""What a checkpoint is good for: real rows judged by goals, each wording, and that what is unsound is good for nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.command import ROOT
from support.jobs import job
from support.measured import results

from qforge.judge import goals
from qforge.pipeline.checks import check


def committed(name: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text())
    return goals.judge_again(row, job().goals)


def judged(measured: dict[str, Any], baseline: dict[str, Any], *overrides: str) -> dict[str, Any]:
    asked = job(*overrides)
    return goals.judge(asked.gate, asked.goals, measured, baseline)


def half(rate: float = 100.0, **quality: float) -> dict[str, Any]:
    """As good as bf16 but for `quality`, a third of the size."""
    made = results(rate=rate, **quality)
    made["weights"]["bytes"] = 1e9
    made["evaluate"]["tasks"]["task"]["per_sample"]["acc"] *= 10  # enough questions to be sure
    return made


def bf16() -> dict[str, Any]:
    base = results()
    base["evaluate"]["tasks"]["task"]["per_sample"]["acc"] *= 10
    return base


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "qwen2_5_coder_1_5b-nvfp4-h200",
            "sound; good for memory (2.5x smaller); not for one stream (1.05x, wanted 1.15x) or 256 streams (1.01x, wanted "
            "1.10x)",
        ),
        (
            "qwen2_5_coder_1_5b-fp8-h200",
            "sound; good for 256 streams (1.43x); not for memory (1.7x smaller, wanted 2.0x); undecided for one stream (1.20x, "
            "1.00x to 1.37x, wanted 1.15x)",
        ),
        (
            "qwen3_8b_random-nvfp4_llmc-h200",
            "undecided: quality was not measured (the weights are random: speed and memory only); if it is sound, good for "
            "memory (2.5x smaller) and one stream (1.44x); not for 128 streams (0.98x, wanted 1.10x)",
        ),
        ("smollm2_135m-gptq-cpu", "unsound: perplexity of python_reference +74.3 %, wanted at most +5 %"),
        ("smollm2_135m-bf16-cpu", "not judged: it is the original"),
    ],
)  # fmt: skip
def test_a_committed_row_says_what_it_is_good_for(name: str, says: str) -> None:
    assert committed(name)["says"] == says


def test_an_undecided_row_says_what_it_would_be_good_for() -> None:
    says = committed("qwen2_5_coder_1_5b_turned-nvfp4_hessian-h200")["says"]
    assert says.startswith(
        "undecided: perplexity of python_reference +5.08 %, +4.53 to +5.57 %, wanted at most +5 %; if it is"
    )
    assert "if it is sound, good for memory (2.1x smaller); speed not measured (stages=" in says


def test_the_same_measurements_judged_as_they_are_and_from_the_row_agree() -> None:
    """Of three repeats the interval is that from the slowest to the fastest, which is what a row keeps."""
    measured, base = half(rate=130), bf16()
    now = judged(measured, base)
    row = {"measured": {}, "baseline": {}, "criteria": now["criteria"], "conditions": {"repeats": 3},
           "serving": {"how": "weight-only"}, "size": {"bytes": 1e9, "bf16_bytes": 3e9}, "method": "x"}  # fmt: skip
    for side, of in (("measured", measured), ("baseline", base)):
        runs = {
            n: {"output_throughput": sorted(r["output_throughput"] for r in run)[1]}
            for n, run in of["bench"]["runs"].items()
        }
        ends = {
            n: [min(r), max(r)]
            for n, run in of["bench"]["runs"].items()
            if (r := [x["output_throughput"] for x in run])
        }
        row[side] = {**of, "bench": {**of["bench"], "runs": runs, "tokens_per_second_range": ends}}
    again = goals.judge_again(row, job().goals)
    assert now["says"] == "sound; good for memory (3.0x smaller), one stream (1.30x) and 4 streams (1.30x)"
    assert again["says"] == now["says"]
    for name, goal in now["goals"].items():
        (own,), (other,) = goal["criteria"], again["goals"][name]["criteria"]
        assert own["interval"] == pytest.approx(other["interval"])


def test_of_more_repeats_than_three_a_row_keeps_each() -> None:
    """Six repeats of two checkpoints on an H200: from their ends alone the interval of one stream is wider, and undecided."""
    row = json.loads((ROOT / "results/goals/qwen2_5_coder_1_5b_turned-h200/gptq.json").read_text())
    again = goals.judge_again(row, job().goals)
    assert again["says"] == row["says"]
    for side in ("measured", "baseline"):
        repeats = row[side]["bench"]["tokens_per_second_repeats"]
        assert {len(rates) for rates in repeats.values()} == {6}
        assert {n: [min(r), max(r)] for n, r in repeats.items()} == row[side]["bench"]["tokens_per_second_range"]
        del row[side]["bench"]["tokens_per_second_repeats"]
    assert "undecided for one stream" in goals.judge_again(row, job().goals)["says"]


def test_a_part_of_quality_that_was_not_measured_leaves_it_undecided() -> None:
    untried, base = half(), bf16()
    untried["evaluate"]["tasks"] = base["evaluate"]["tasks"] = {}
    says = judged(untried, base)["says"]
    assert says.startswith(
        "undecided: task not measured (evaluate was configured to measure nothing for it with one of acc_norm"
    )
    assert "; if it is sound, good for memory (3.0x smaller)" in says


def test_garbage_is_good_for_nothing_however_small_and_fast() -> None:
    found = judged(half(rate=900, loss=9.0), bf16())
    assert found["says"].startswith("unsound: perplexity of text +")
    assert "good for" not in found["says"]
    assert {goal["verdict"] for goal in found["goals"].values()} == {"reject"}
    assert {c["verdict"] for goal in found["goals"].values() for c in goal["criteria"]} == {"pass"}


def test_a_sound_model_that_is_neither_small_nor_fast_is_still_sound() -> None:
    says = judged(bf16(), bf16())["says"]
    assert says == (
        "sound; not for memory (1.0x smaller, wanted 2.0x), one stream (1.00x, wanted 1.15x) or 4 streams (1.00x, wanted 1.10x)"
    )


def test_what_was_not_timed_is_not_claimed() -> None:
    emulated = half()
    emulated["bench"] = {"not_measured": "emulated: no kernel"}
    emulated["weights"]["as_bf16"] = True
    found = judged(emulated, bf16())
    assert found["says"] == (
        "sound; good for memory (3.0x smaller packed, and held as bf16 here); speed not measured (emulated: no kernel)"
    )
    assert found["goals"]["latency"]["verdict"] == "not_measured"


def test_a_load_that_bench_leaves_out_is_not_measured() -> None:
    many, base = half(rate=200), bf16()
    for side in (many, base):
        side["bench"]["runs"] = {"8": side["bench"]["runs"]["4"]}
    assert judged(many, base)["says"] == (
        "sound; good for memory (3.0x smaller) and 8 streams (2.00x); speed not measured (bench was configured to measure "
        "nothing for it)"
    )


def test_one_repeat_decides_nothing() -> None:
    once, base = half(rate=200), bf16()
    for side in (once, base):
        side["bench"]["runs"] = {n: run[:1] for n, run in side["bench"]["runs"].items()}
    assert (
        "undecided for one stream (2.00x, fewer than three windows, samples or repeats, wanted 1.15x) and 4 streams"
        in (judged(once, base)["says"])
    )


def test_the_gate_says_what_must_hold_and_may_ask_quality_for_more_or_less() -> None:
    slow = judged(half(rate=100), bf16(), "gate=[memory,latency]")
    assert (slow["verdict"], slow["says"].partition(";")[0]) == ("reject", "sound")
    assert judged(half(rate=100), bf16(), "gate=memory")["verdict"] == "accept"
    worse = half(loss=3.08)  # perplexity +8.3 %
    assert judged(worse, bf16())["says"].startswith("unsound: perplexity")
    assert judged(worse, bf16(), "gate.criteria.perplexity.at_most=20")["says"].startswith("sound; good for memory")
    assert judged(half(), bf16(), "gate=faithful")["says"].startswith("sound; good for memory")
    off = half()
    off["divergence"]["texts"]["text"]["window_agreed"] = [40] * 20
    assert judged(off, bf16(), "gate=faithful")["says"] == ("unsound: agreement of text 40 %, wanted at least 90 %")


def test_a_row_is_missed_where_its_gate_must_hold_and_does_not() -> None:
    row = {"gate": {"required": True}, "baseline": {"bench": {}}, "verdict": "reject"}
    assert goals.missed(row)
    assert not goals.missed({**row, "verdict": "accept"})
    assert not goals.missed({**row, "gate": {"required": False}})
    assert not goals.missed({**row, "gate": {"name": "default"}}), "a row of earlier"
    assert not goals.missed({**row, "baseline": None}), "nobody judged it"


def test_a_goal_of_quality_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"goals.latency: asks for quality alone, as being sound does; add what else"):
        check(job("~goals.latency.criteria.latency"))
    check(job("~gate@goals.latency"))


def test_every_finding_is_shown_once_with_what_it_decides() -> None:
    found = {**judged(half(), bf16(), "gate=strategy"), "gate": {"name": "strategy"}}
    shown = [(what, c["metric"]) for what, c in goals.criteria(found)]
    assert [what for what, _ in shown] == ["sound", "sound", "memory", "latency", "throughput", *["gate strategy"] * 2]
    assert len(shown) == len(set(shown))
