"""method=online_fp8: vLLM quantizes the bf16 model while it loads it; judged like any other, against bf16 that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import ROOT
from support.jobs import job

from qforge.pipeline.baseline import bf16_of
from qforge.pipeline.checks import check
from qforge.plan import plan
from qforge.report.names import name_of
from qforge.runtimes import vllm

ON_GPU = ("model=qwen3_8b", "hw=h200")


def test_vllm_is_told_and_the_baseline_is_not_quantized() -> None:
    made = job(*ON_GPU, "method=online_fp8")
    told = vllm.arguments(made, Path("checkpoint"), 1)
    assert told[told.index("--quantization") + 1] == "fp8_per_channel"
    assert "--quantization" not in vllm.arguments(bf16_of(made), Path("checkpoint"), 1)
    assert not made.is_original
    assert not made.makes_checkpoint
    planned = plan.make(made, None)
    assert planned.bytes == planned.bf16_bytes
    assert any("no checkpoint is made" in note for note in planned.notes)
    assert not any("exempt" in note for note in planned.notes), "vLLM leaves the head alone as well"
    (note,) = [n for n in plan.make(job(*ON_GPU, "method=online_fp8", "exempt=boundary"), None).notes if "exempt" in n]
    assert note.startswith("exempt.first_block, exempt.last_block: not applied, since vLLM itself chooses")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=rtn", "method.online=fp8_per_channel"], "quantizes at load what is in bf16; leave method.online out"),
        (["method=online_fp8", "hw=cpu"], "only vLLM on a GPU quantizes at load; use method=fp8"),
        (["method=online_fp8", "runtime=transformers"], "only vLLM on a GPU quantizes at load; use method=fp8"),
        (["method=online_fp8", "method.online=nvfp4_per_token"], "on B200 and its kin alone; use method=nvfp4_llmc"),
        (["method=online_fp8", "kv=fp8_calibrated"], "scales come with a quantized checkpoint; use kv=fp8 or kv=auto"),
        (
            ["method=bf16", "+runtime.args.quantization=fp8"],
            "to have it quantize bf16 weights at load, use method=online_fp8",
        ),
    ],
)
def test_what_vllm_would_not_quantize_is_refused(overrides: list[str], message: str) -> None:
    hw = [] if any(o.startswith("hw=") for o in overrides) else ["hw=h200"]
    with pytest.raises(ValueError, match=message):
        check(job("model=qwen3_8b", *hw, *overrides))


@pytest.mark.parametrize(("online", "hw"), [("int8_per_channel_weight_only", "h200"), ("nvfp4_per_token", "b200")])
def test_what_means_experts_alone_is_refused_for_a_model_that_has_none(online: str, hw: str) -> None:
    words = ("method=online_fp8", f"method.online={online}", f"hw={hw}")
    made = job(*words, "model=qwen3_8b")
    check(made)
    with pytest.raises(
        ValueError, match=f"method.online={online}: vLLM quantizes the experts .* model=qwen3_8b has none"
    ):
        plan.make(made, None)
    assert plan.make(job(*words, "model=qwen3_30b_a3b"), None).serving


@pytest.mark.parametrize(
    ("model", "online", "row", "off"),
    [  # FP8 takes 10 % more than its weights: what vLLM's log counts while it loads
        ("qwen3_8b", "fp8_per_channel", "qwen3_8b_random-online_fp8", 0.10),
        ("qwen3_8b", "mxfp4", "qwen3_8b_random-online_mxfp4", 0.01),
        ("qwen3_30b_a3b", "int8_per_channel_weight_only", "qwen3_30b_a3b_random-online_int8", 0.01),
    ],
)
def test_memory_is_planned_for_what_vllm_makes_of_the_weights(model: str, online: str, row: str, off: float) -> None:
    """Against what an H200's server said that it loaded."""
    measured = json.loads((ROOT / "results" / f"{row}-h200-2026-11-30.json").read_text())
    planned = plan.make(job(f"model={model}", "hw=h200", "method=online_fp8", f"method.online={online}"), None)
    said = float(measured["measured"]["serve"]["weights_gib"])
    assert planned.estimates.memory.weights == pytest.approx(said, rel=off)
    assert any("the size on the disk is that of bf16" in note for note in planned.notes)
    assert any(note.endswith("an H200 took 10 % more memory than is planned") for note in planned.notes) == (off > 0.05)


def test_a_name_that_is_not_known_here_is_planned_for_bf16() -> None:
    planned, bf16 = (
        plan.make(job(*ON_GPU, *words), None) for words in (["method=online_fp8", "method.online=own"], ["method=bf16"])
    )
    assert planned.estimates.memory == bf16.estimates.memory
    assert any(note.endswith("size, memory and speed are planned for bf16") for note in planned.notes)


@pytest.mark.parametrize("model", ["qwen3_8b", "qwen3_30b_a3b"])
@pytest.mark.parametrize("hw", ["h200", "l40s", "a100", "b200"])
@pytest.mark.parametrize(("online", "method"), [("fp8_per_tensor", "fp8"), ("mxfp4", "mxfp4")])
def test_speed_is_bounded_as_a_checkpoint_s_is(model: str, hw: str, online: str, method: str) -> None:
    """vLLM chooses the kernel by the same rules, and so its arithmetic."""
    at_load, packed = (
        plan.make(job(f"model={model}", f"hw={hw}", *words), None).estimates
        for words in (["method=online_fp8", f"method.online={online}"], [f"method={method}"])
    )
    assert at_load.arithmetic == packed.arithmetic
    assert at_load.speed
    assert packed.speed
    assert at_load.speed.decode_1 == pytest.approx(packed.speed.decode_1, rel=0.01)


def test_experts_that_lie_in_one_tensor_are_quantized_too() -> None:
    bf16, fp8, int8 = (
        plan.make(job("model=gpt_oss_20b", "hw=h200", *words), None).estimates.memory.weights
        for words in (
            ["method=bf16"],
            ["method=online_fp8"],
            ["method=online_fp8", "method.online=int8_per_channel_weight_only"],
        )
    )
    assert fp8 < 0.6 * bf16
    assert int8 < 0.6 * bf16


def test_what_no_kernel_reads_is_refused_as_of_a_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"method\.online=mxfp4 hw=mi325x: AITER's MXFP4 needs gfx950"):
        plan.make(job("model=qwen3_8b", "hw=mi325x", "method=online_mxfp4"), None)


def test_rows_of_two_names_are_told_apart() -> None:
    rows = [{"method": "online_fp8", "online": "fp8_per_block"}, {"method": "online_mxfp4", "online": "mxfp4"}]
    assert [name_of({**row, "exempt": {}}) for row in rows] == ["online_fp8 fp8_per_block", "online_mxfp4"]
