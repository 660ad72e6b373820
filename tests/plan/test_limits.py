"""What only a stage minds is refused where the run comes to that stage, and a note of the plan elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.command import ROOT
from support.jobs import job

from qforge.pipeline.checks import check
from qforge.plan import plan

LONGER = [
    ("eval.context=4096", "evaluate", "eval.context=4096 needs runtime.args.max_model_len > 4096"),
    ("eval.long_context.lengths=[8192]", "evaluate", "8192 tokens and an answer of 16 need"),
    (
        "eval.long_context={lengths: [512, 1024], families: [keys, common_words]}",
        "evaluate",
        "eval.long_context.lengths: 512 tokens are too few for eval.long_context.families=common_words, which takes 1024",
    ),
    ("eval.divergence.top_k=50", "evaluate", "eval.divergence.top_k=50: the server gives at most 20"),
    ("eval.kv_dtypes=[fp8]", "evaluate", "eval.kv_dtypes=['fp8']: cache formats are compared on long context"),
    ("eval.stability.tokens=1024", "evaluate", "eval.stability.tokens=1024: the answers must be shorter"),
    ("bench.input_len=3000", "bench", "bench.input_len + bench.output_len = 3032 exceeds"),
]


@pytest.mark.parametrize(("override", "stage", "message"), LONGER)
def test_a_run_that_comes_to_the_stage_is_refused(override: str, stage: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(job(override))


@pytest.mark.parametrize("without", ["plan_only=true", "stages=[quantize]"])
@pytest.mark.parametrize(("override", "stage", "message"), LONGER)
def test_one_that_does_not_has_a_note(override: str, stage: str, message: str, without: str) -> None:
    made = job(override, without)
    check(made)
    (note,) = [note for note in plan.make(made, None).notes if "would be refused" in note]
    assert note.startswith(f"{stage} would be refused: ")
    assert message in note


def test_a_model_of_512_tokens_can_be_planned_and_quantized(tmp_path: Path) -> None:
    config = json.loads((ROOT / "data/architectures/smollm2_135m.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    short = f"model.architecture={tmp_path}/config.json"
    said = "runtime.args.max_model_len=2048: smollm2_135m supports 512 tokens; use runtime.args.max_model_len=512"
    for without in ("plan_only=true", "stages=[quantize]"):
        assert any(f"serve would be refused: {said}" in note for note in plan.make(job(short, without), None).notes)
    with pytest.raises(ValueError, match=re.escape(said)):
        plan.make(job(short), None)


def test_a_trace_is_for_servers() -> None:
    traced = "runtime=transformers", "runtime.timed=true", "bench=conversation"
    with pytest.raises(ValueError, match=r"runtime\.timed times prompts of one length; set bench\.trace=null"):
        check(job(*traced))
    check(job(*traced, "bench.trace=null"))


def test_a_plan_without_such_limits_has_no_such_note() -> None:
    assert not [note for note in plan.make(job("plan_only=true"), None).notes if "would be refused" in note]


def test_the_engines_options_are_the_hardwares_and_the_users_on_top() -> None:
    made = job("hw=thor", "kv=fp8", "+runtime.args.gpu_memory_utilization=0.7")
    assert made.hw.args == {"gpu_memory_utilization": 0.8}
    own = {"kv_cache_dtype": "fp8", "quantization": None, "max_model_len": 2048, "gpu_memory_utilization": 0.7}
    assert made.engine_args == {**made.model.args, **own}
    made.hw.args["max_model_len"], made.runtime.args = 512, {}
    with pytest.raises(ValueError, match=r"eval\.context=1024 needs runtime\.args\.max_model_len > 1024"):
        check(made)


def test_a_cache_of_a_size_of_its_own_is_what_there_is() -> None:
    """On a GPU vLLM then looks at no part of the device's memory."""
    own = ["model=qwen3_8b", "hw=h200", "method=rtn", "+runtime.args.gpu_memory_utilization=0.01"]
    fits = plan.make(job(*own, "+runtime.args.kv_cache_memory_bytes=2000000000"), None).estimates.memory
    assert fits.largest_concurrency == int(
        2e9 / (144 * 2**10 * 2048)
    )  # 2 x 36 layers x 8 heads x 128 values of 2 bytes
    with pytest.raises(
        ValueError, match=r"does not fit; use more bytes for it \(runtime\.args\.kv_cache_memory_bytes\)"
    ):
        plan.make(job(*own, "+runtime.args.kv_cache_memory_bytes=1000"), None)


def test_a_cpu_has_no_more_devices_for_a_cache() -> None:
    with pytest.raises(
        ValueError, match=r"=8192 or less, more GiB for it \(runtime\.environ\.VLLM_CPU_KVCACHE_SPACE\)"
    ):
        plan.make(job("hw=cpu", "hw.capability=avx512", "runtime.args.max_model_len=131072", "plan_only=true"), None)
