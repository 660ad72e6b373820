"""The KV cache of a plan: which scales a checkpoint will hold, what a server would refuse, and what is said of FP8."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoints import DENSE
from support.jobs import job

from qforge.models.checkpoint import Tensor
from qforge.plan import plan

CALIBRATED = "kv=fp8_calibrated"
HEADS = "kv.strategy=attn_head"


def planned(*overrides: str) -> plan.Plan:
    own = [] if any(o.startswith("model=") for o in overrides) else ["model=qwen3_8b"]
    return plan.make(job(*own, *overrides), None)


@pytest.mark.parametrize(
    ("overrides", "name", "tensor"),
    [
        (["method=bf16"], "self_attn.k_scale", Tensor("BF16", (1,))),
        (["method=rtn"], "self_attn.k_scale", Tensor("BF16", (1,))),
        (["method=gptq", HEADS], "self_attn.v_scale", Tensor("BF16", (8, 1, 1))),
        (["method=nvfp4"], "self_attn.v_proj.v_scale", Tensor("F32", ())),
    ],
)
def test_a_scale_for_keys_and_one_for_values_of_each_layer(overrides: list[str], name: str, tensor: Tensor) -> None:
    without, made = planned("hw=h200", *overrides[:1]), planned("hw=h200", CALIBRATED, *overrides)
    scales = {name: made.tensors[name] for name in made.tensors.keys() - without.tensors.keys()}
    assert len(scales) == 2 * 36
    assert scales[f"model.layers.35.{name}"] == tensor
    assert made.bytes - without.bytes == 72 * tensor.nbytes
    assert made.identity() != without.identity()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=gptqmodel"], "vLLM reads no scales of the KV cache from the gptq format and would take 1.0; use kv=auto, or"),
        (["method=nvfp4", HEADS], "ModelOpt has one scale per layer; use kv.strategy=tensor"),
        (["hw=mi325x", "method=rtn"], "E4M3FNUZ.*; use kv=auto or kv=fp8$"),
        (["hw=a100", "method=rtn"], "Ampere has no FP8 .*; use kv=auto, or kv=fp8 kv.dtype=fp8_e5m2$"),
        (["hw=b200", "method=rtn", HEADS], "FlashAttention 3 alone, which is Hopper's; use kv.strategy=tensor"),
        (["hw=cpu", "hw.capability=amx", "method=rtn", HEADS], "takes the largest scale for all heads; use kv.strategy=tensor"),
        (["hw=cpu", "hw.capability=avx2", "method=bf16"], "an FP8 cache on a CPU needs AVX-512 or AMX; use kv=auto"),
        (["method=rtn", "runtime=transformers"], "only vLLM keeps its cache in FP8; use kv=auto"),
        (["method=rtn", "kv.dtype=auto"], r"kv.strategy=tensor: scales are of an FP8 cache .*; use kv=fp8_calibrated alone"),
        (["method=rtn", "kv.dtype=fp8_e5m2"], r"E5M2 takes no scales; use kv=fp8_calibrated alone \(E4M3\)"),
        (["hw=a100", "method=rtn", "kv.dtype=fp8_e5m2"], "E5M2 takes no scales; .*or kv=fp8 kv.dtype=fp8_e5m2 without"),
        (["method=nvfp4_llmc", "group_size=64", "unservable=measure"], "what is simulated is stored as plain bf16"),
        (["model=deepseek_v3", "method=bf16", "stages=[quantize]"], "one compressed vector for all heads"),
        (["method=rtn", "kv.dtype=fp8_per_token_head"], r"scales are of an FP8 cache \(fp8 or fp8_e4m3\); use"),
        (["method=rtn", HEADS, "+runtime.args.attention_backend=FLASHINFER"], "per head is read by FLASH_ATTN alone; leave"),
        (["model=gemma3_4b", "method=gptq", HEADS], "tokens of an image see all of it .*; use kv.strategy=tensor, or"),
    ],
)  # fmt: skip
def test_what_would_not_be_read_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(*([] if any(o.startswith("hw=") for o in overrides) else ["hw=h200"]), CALIBRATED, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hw=cpu", "model=deepseek_v3", "method=bf16", "kv=fp8"], r"\(MLA\) for CPUs keeps its cache in 16 bits; use kv=auto"),
        (["hw=a100", "model=deepseek_v3", "kv=fp8"], "from Ada on, and never in E5M2; use kv=auto$"),
        (["hw=h200", "model=deepseek_v3", "kv=fp8", "kv.dtype=fp8_e5m2"], "in E5M2; use kv=auto, or kv=fp8 alone"),
        (["hw=cpu", "hw.capability=amx", "kv=fp8", "kv.dtype=nvfp4"], "CPUs keeps its cache in 16 bits or in FP8; use kv=auto"),
        (["hw=h200", "kv.dtype=float16"], "the model is served in bfloat16, .*; use kv=auto"),
        (["hw=h200", "kv=fp8", "+runtime.args.attention_config={backend: FLEX_ATTENTION}"], "16 bits alone; leave it out, or"),
    ],
)  # fmt: skip
def test_a_cache_that_the_models_attention_does_not_keep_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned("method=rtn", *overrides)


def test_what_shows_no_images_may_have_a_scale_for_each_head() -> None:
    text_alone = "+runtime.args.language_model_only=true"
    assert planned("hw=h200", "model=gemma3_4b", "method=gptq", CALIBRATED, HEADS, text_alone).kv_scales == "attn_head"
    assert planned("hw=h200", "model=gemma3_4b", "method=gptq", CALIBRATED).kv_scales == "tensor"
    assert planned("hw=h200", "method=rtn", "kv.dtype=float16", "+runtime.args.dtype=float16").bytes


def test_e5m2_beside_a_checkpoint_of_modelopts_is_refused() -> None:
    with pytest.raises(ValueError, match="E5M2 beside no checkpoint of ModelOpt's; use kv=auto, or method=nvfp4_llmc"):
        planned("hw=a100", "method=nvfp4", "kv=fp8", "kv.dtype=fp8_e5m2")
    planned("hw=a100", "method=nvfp4_llmc", "kv=fp8", "kv.dtype=fp8_e5m2")


def test_modelopts_scales_are_doubled_where_fp8_reaches_half_as_far() -> None:
    assert (
        planned("hw=mi325x", "method.format=nvfp4_w4a4_modelopt", "method=nvfp4_w4a4", CALIBRATED).kv_scales == "tensor"
    )


def test_heads_that_a_cpu_does_not_keep_in_fp8(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**DENSE, "head_dim": 80}))
    small = ("model=local", "model.name=small", f"model.architecture={tmp_path}/config.json", "method=bf16", "kv=fp8")
    with pytest.raises(ValueError, match="a multiple of 32 values in FP8, and those of small have 80; use kv=auto"):
        planned(*small, "hw=cpu", "hw.capability=amx")


def test_what_fp8_without_scales_costs_is_said_with_its_source() -> None:
    assert not [note for note in planned("hw=h200", "method=rtn", "group_size=128").notes if "kv=" in note]
    (said,) = (note for note in planned("hw=h200", "method=bf16", "kv=fp8").notes if note.startswith("kv.dtype=fp8 "))
    assert "keys beyond 448 are cut off" in said
    assert "perplexity 15.1 to 29.1" in said
    assert "results/qwen2_5_coder_1_5b-bf16-kv_fp8-h200.json" in said
    (said,) = (note for note in planned("hw=h200", "method=bf16", CALIBRATED).notes if note.startswith(CALIBRATED))
    assert "against bf16 with a bf16 cache" in said


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["hw=mi325x", "kv=fp8"], "keys beyond 240 are cut off"),
        (["hw=h200", "kv.dtype=fp8_e5m2"], "kv.dtype=fp8_e5m2 without scales: digits are lost"),
        (["hw=h200", CALIBRATED, "kv.strategy=null"], "kv.dtype=fp8 without scales: keys beyond 448"),
        (["hw=h200", "kv.dtype=int8_per_token_head"], "what kv.dtype=int8_per_token_head takes is not known here"),
    ],
)
def test_what_is_said_of_other_caches(overrides: list[str], words: str) -> None:
    assert words in " ".join(planned("method=bf16", *overrides).notes)


def test_bf16_with_an_fp8_cache_is_judged_like_any_other() -> None:
    assert job("method=bf16").is_original
    assert not job("method=bf16", "kv=fp8").is_original
    assert not job("method=rtn").is_original


def test_the_cache_is_half_as_large() -> None:
    one, two = (planned("hw=h200", "method=bf16", f"kv={kv}").estimates.memory.kv_cache for kv in ("fp8", "auto"))
    assert two == pytest.approx(2 * one)
