"""Committed rows as evidence for plans."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.command import ROOT

from qforge.plan import evidence

GOOD = ROOT / "results" / "qwen2_5_coder_1_5b-gptq-h200.json"


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"baseline": 1}', '{"baseline": {"bench": {}}, "measured": []}',
        pytest.param(json.dumps({**json.loads(GOOD.read_text()), "conditions": None}), id="without conditions"),
        pytest.param(json.dumps({**json.loads(GOOD.read_text()), "layout": "int5"}), id="unknown layout"),
        pytest.param(json.dumps({**json.loads(GOOD.read_text()), "baseline": {"bench": {}, "evaluate": []}}), id="a list"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_skipped_and_named_once(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(GOOD, tmp_path / "good.json")
    (tmp_path / "bad.json").write_text(text)
    assert [m.file for m in evidence.judged(tmp_path)] == ["good.json"]
    assert [m.file for m in evidence.judged(tmp_path)] == ["good.json"]
    said = capsys.readouterr().out
    assert said.count("not used as evidence, it is not a row of qforge") == 1
    assert "bad.json" in said


def test_what_an_fp8_cache_lost_is_not_held_against_the_method(tmp_path: Path) -> None:
    row = json.loads(GOOD.read_text())
    for name, dtype in (("auto", "auto"), ("fp8", "fp8")):
        kv = {"name": name, "dtype": dtype, "strategy": None}
        (tmp_path / f"{name}.json").write_text(json.dumps({**row, "kv": kv}))
    assert [m.file for m in evidence.judged(tmp_path)] == ["auto.json"]


def test_what_vllm_quantized_at_load_is_no_evidence_for_bf16() -> None:
    """Its layout on the disk is bf16's; without that told apart, method=auto said that bf16 is faster than bf16."""
    rows = evidence.judged()
    assert {m.online for m in rows} >= {None, "fp8_per_channel", "mxfp4", "int8_per_channel_weight_only"}
    assert {m.method for m in evidence.of_layout(evidence.quantized_to(rows, None), "bf16")} <= {"bf16"}
    (int8,) = evidence.quantized_to(rows, "int8_per_channel_weight_only")
    assert int8.experts
    assert "qwen3_30b_a3b_random, int8_per_channel_weight_only on h200" in int8.source


def test_a_plan_shows_of_each_model_the_row_that_says_most_of_the_release_that_will_serve() -> None:
    rows = [
        measurement("old", "a", "0.26.0", {1: 2.0, 4: 2.0}),
        measurement("less", "a", "0.33.0", {1: 1.5}),
        measurement("more", "a", "0.33.1", {1: 1.5, 4: 1.2}),
        measurement("other", "b", "0.33.0", {1: 1.1}),
    ]
    assert [row.file for row in evidence.telling(rows, "0.33.0")] == ["more", "other"]
    assert [row.file for row in evidence.telling(rows[:1], "0.33.0")] == ["old"]


def measurement(file: str, model: str, vllm: str, speed: dict[int, float]) -> evidence.Measurement:
    return evidence.Measurement(
        file, model, "rtn", "int4", 128, "h200", vllm, 10**9, False, speed, least=speed, perplexity={}
    )
