"""method=online_fp8: vLLM quantizes the bf16 model while it loads it; judged like any other, against bf16 that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.jobs import job

from qforge.pipeline.baseline import bf16_of
from qforge.pipeline.checks import check
from qforge.plan import plan
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
