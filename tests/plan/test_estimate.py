"""Memory and roofline by hand, and the KV cache against what vLLM itself said."""

from __future__ import annotations

import json

import pytest
from support.command import ROOT
from support.jobs import job

from qforge.json_files import read_json
from qforge.models import architectures
from qforge.plan import memory, plan, roofline


def text(name: str) -> dict:
    return architectures.language(json.loads((ROOT / f"data/architectures/{name}.json").read_text()))


def kv_bytes(name: str, context: int = 1, value_bytes: float = 2.0, devices: int = 1) -> float:
    return sum(cache.bytes(context, value_bytes, devices) for cache in memory.caches(text(name)))


def test_kv_cache_of_published_shapes() -> None:
    assert kv_bytes("llama3_1_8b") == 2 * 32 * 8 * 128 * 2  # keys and values, layers, heads, width, bytes
    assert kv_bytes("deepseek_v3") == 61 * (512 + 64) * 2  # one compressed vector per layer, arXiv 2412.19437
    assert kv_bytes("llama3_1_8b", devices=2) == kv_bytes("llama3_1_8b") / 2
    assert kv_bytes("llama3_1_8b", devices=16) == kv_bytes("llama3_1_8b") / 8  # eight heads go to eight devices at most
    assert kv_bytes("deepseek_v3", devices=8) == kv_bytes("deepseek_v3")  # every device keeps the whole


def test_a_sliding_window_keeps_no_more_than_its_window() -> None:
    (full, sliding) = memory.caches(text("gemma3_270m"))
    assert (full.layers, sliding.layers, sliding.window) == (3, 15, 512)
    assert sliding.tokens(100_000) == 512
    assert kv_bytes("gemma3_270m", 100_000) < kv_bytes("llama3_1_8b", 100_000)


def test_the_kv_cache_is_as_large_as_vllm_says() -> None:
    """VLLM_CPU_KVCACHE_SPACE=1 is 1 GiB; vLLM rounds down to whole blocks of tokens."""
    said = int(read_json(ROOT / "results/smollm2_135m-gptq-cpu.json")["measured"]["serve"]["kv_cache_tokens"])
    assert 2**30 / kv_bytes("smollm2_135m") == pytest.approx(said, rel=0.003)


def test_activations_are_what_vllm_set_aside_on_gpus() -> None:
    rows = {file: read_json(file) for file in (ROOT / "results").glob("*-h[12]00*.json")}
    # with a KV cache of a given size vLLM measures nothing
    rows = {file: row for file, row in rows.items() if row["measured"]["serve"]["activation_gib"]}
    kinds = {(row["model"], row["conditions"]["runtime_args"].get("tensor_parallel_size")) for row in rows.values()}
    assert len(kinds) >= 4  # small, large, a mixture, two GPUs
    for file, row in rows.items():
        options = [f"++runtime.args.{key}={value}" for key, value in row["conditions"]["runtime_args"].items()]
        where = memory.deployment(job(f"model={row['model']}", f"hw={row['conditions']['hw']}", *options))
        planned = memory.memory(text(row["model"].removesuffix("_random")), 0, where).activations
        assert planned == pytest.approx(float(row["measured"]["serve"]["activation_gib"]), rel=0.15), file.name


def test_memory_adds_up_and_says_what_fits() -> None:
    made = plan.make(job("model=llama3_1_8b", "method=gptq", "hw=h100"), None)
    found = made.estimates.memory
    assert found.fits
    assert found.weights == pytest.approx(made.bytes / 2**30)
    assert found.budget == pytest.approx(0.92 * 79.6, abs=0.1)
    assert found.kv_cache == pytest.approx(found.concurrency * 2048 * kv_bytes("llama3_1_8b", value_bytes=2.0) / 2**30)
    longer = plan.make(job("model=llama3_1_8b", "method=gptq", "hw=h100", "runtime.args.max_model_len=65536"), None)
    assert longer.estimates.memory.largest_concurrency < found.largest_concurrency
    assert longer.estimates.memory.largest_context == found.largest_context
    halved = plan.make(job("model=llama3_1_8b", "method=gptq", "hw=h100", "+runtime.args.tensor_parallel_size=2"), None)
    assert halved.estimates.memory.weights == pytest.approx(found.weights / 2)


def test_the_roofline_by_hand() -> None:
    made = plan.make(job("model=llama3_1_8b", "method=bf16", "hw=h100", "runtime.args.max_model_len=256"), None)
    speed = made.estimates.speed
    assert speed
    embedding = 128256 * 4096
    read = 2 * (made.parameters - embedding) + 128 * kv_bytes("llama3_1_8b", value_bytes=2.0)
    assert speed.decode_1 == pytest.approx(made_bandwidth("h100") / read, rel=0.001)
    assert speed.decode_64 > 30 * speed.decode_1  # bf16 weights are read once for all 64
    assert speed.decode_64 <= 64 * speed.decode_1


def made_bandwidth(hw: str) -> float:
    bandwidth = job(f"hw={hw}").hw.bandwidth_gbs
    assert bandwidth
    return bandwidth * 1e9


def test_a_batch_visits_more_experts_than_a_token() -> None:
    weights = roofline.Weights(
        shared_bytes=10,
        expert_bytes=1000,
        shared_parameters=5,
        expert_parameters=500,
        head_parameters=1,
        chosen=8 / 128,
    )
    assert weights.read(1) == pytest.approx(10 + 1000 / 16)
    assert weights.read(1) < weights.read(8) < weights.read(64) < 1010
    assert weights.operations == pytest.approx(2 * (5 + 500 / 16))


def test_four_bits_bound_single_streams_and_fp8_bounds_prefill() -> None:
    """Weight-only kernels compute in bf16: what they save is reading."""
    made = {m: plan.make(job("model=llama3_1_8b", f"method={m}", "hw=h100"), None).estimates for m in ("gptq", "fp8")}
    gptq, fp8 = made["gptq"].speed, made["fp8"].speed
    bf16 = made["gptq"].bf16_speed
    assert gptq is not None
    assert fp8 is not None
    assert bf16 is not None
    assert gptq.decode_1 > 1.5 * fp8.decode_1 > 2.5 * bf16.decode_1
    assert gptq.prefill == pytest.approx(bf16.prefill)
    assert fp8.prefill == pytest.approx(2 * bf16.prefill, rel=0.1)


def test_an_emulated_method_has_no_speed_and_the_memory_of_bf16() -> None:
    made = plan.make(job("method=nvfp4"), None)
    assert made.emulated
    assert made.estimates.speed is None
    assert made.estimates.memory.weights == pytest.approx(made.bf16_bytes / 2**30)
