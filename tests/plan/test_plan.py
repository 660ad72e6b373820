"""Plans of large models from their config alone: what happens to which part, what fits, and every way out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.checkpoints import DENSE
from support.command import ROOT
from support.jobs import job

from qforge.pipeline.checks import check
from qforge.plan import plan, support_matrix

GPTQ = "method.args.GPTQModifier.config_groups.weights.weights"
AWQ = "method.args.QuantizationModifier.config_groups.weights.weights"


def planned(*overrides: str) -> plan.Plan:
    return plan.make(job(*overrides), None)


def test_qwen3_30b_on_one_screen_of_numbers() -> None:
    made = planned("model=qwen3_30b_a3b", "method=nvfp4", "hw=h100", "exempt=boundary")
    assert made.parts["expert"].modules == 48 * 128 * 3
    assert made.parts["expert"].quantized == 46 * 128 * 3
    assert made.parts["router"].quantized == made.parts["head"].quantized == 0
    assert made.bytes == sum(part.bytes for part in made.parts.values())
    assert made.bf16_bytes == sum(part.bf16_bytes for part in made.parts.values())
    assert 18e9 < made.bytes < 21e9 < made.bf16_bytes
    assert made.tensor_parallel == [1, 2, 4, 8, 16]
    assert made.estimates.memory.fits
    assert made.serving.experts_kernel


def test_the_kernels_planned_are_those_of_the_vllm_that_is_there() -> None:
    """As the log of vLLM 0.26 on an H200 named them; without a version, the newest's."""
    wanted = job("model=qwen3_30b_a3b", "method=nvfp4_llmc", "hw=h200")
    there, newest = plan.make(wanted, None, "0.26.0").serving, plan.make(wanted, None).serving
    assert (there.kernel, there.experts_kernel) == ("MarlinNvFp4LinearKernel", "MARLIN experts")
    assert (newest.kernel, newest.experts_kernel) == ("HummingNvFp4LinearKernel", "HUMMING experts")


def test_the_thinker_is_quantized_and_everything_else_of_omni_is_not() -> None:
    made = planned("model=qwen3_omni_30b", "method=nvfp4_llmc", "hw=h100")
    touched = {kind for kind, part in made.parts.items() if part.quantized}
    assert touched == {"attention", "expert"}
    assert all(name.startswith("thinker.model.") for name in made.quantized)
    assert {"vision", "audio", "talker", "code2wav"} < made.parts.keys()
    talking = made.parts["talker"].bytes + made.parts["code2wav"].bytes
    assert (
        made.estimates.memory.weights < (made.bytes - talking) / 2**30
    )  # norms and biases of the talker are left out too
    assert any("vLLM does not load code2wav and talker" in note for note in made.notes)


def test_a_stream_takes_experts_apart_that_lie_in_one_tensor() -> None:
    made = plan.make(job("model=gpt_oss_20b", "method=rtn", "group_size=32", "hw=h200"), None)
    assert made.parts["expert"].quantized == made.parts["expert"].modules == 48
    assert made.tensors["model.layers.0.mlp.experts.31.up_proj.weight_packed"].shape == (2880, 360)
    assert made.tensors["model.layers.0.mlp.experts.31.up_proj.bias"].shape == (2880,)


def test_what_is_in_32_bits_stays_so() -> None:
    made = plan.make(
        job("model=deepseek_v3", "method=nvfp4_llmc", "hw=b200", "+runtime.args.tensor_parallel_size=8"), None
    )
    assert made.tensors["model.layers.3.mlp.gate.e_score_correction_bias"].dtype == "F32"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=qwen3_omni_30b", "method=nvfp4", "hw=h100"], "head without its name.*use method=nvfp4_llmc"),
        (["model=gpt_oss_20b", "method=nvfp4", "hw=h200"], "all experts of its layer in one tensor.*use method=gptq, or"),
        (["model=deepseek_v3", "method=nvfp4", "hw=h200"], r"take 354\.\d GiB .*tensor_parallel_size=4 or more"),
        (["model=kimi_k2", "method=bf16", "hw=l40s"], "take 1911.8 GiB.*; use a larger hw"),
        (
            ["model=qwen3_235b_a22b", "method=gptq", "group_size=128", "hw=h200", "+runtime.args.tensor_parallel_size=8"],
            "192 inputs per device, which group_size=128 does not divide; use .*tensor_parallel_size=4 or another group_size$",
        ),
        (["model=llama3_1_8b", "hw=h100", "+runtime.args.tensor_parallel_size=3"], "not divisible by 3 devices; use .*=2$"),
        (
            ["model=llama3_1_70b", "hw=l40s", "runtime.args.max_model_len=100000"],
            r"max_model_len=100000 hw=l40s: beside .* does not fit; use .*max_model_len=\d+ or less, .*"
            r"or kv=fp8_calibrated, which may cost quality$",
        ),
        (["model=smollm2_135m", "group_size=128"], "576 inputs, which 128 does not divide .* use group_size=32 or 64"),
        (["model=phi4", "hw=h100", "+runtime.args.tensor_parallel_size=4"], "10 KV heads can be neither divided"),
        (["model=qwen3_30b_a3b", "method=bf16"], "on each of 1 devices.*; use a larger hw or a smaller method"),
        (["model=qwen3_30b_a3b", "method=bf16", "+runtime.args.tensor_parallel_size=4"], "on each of 1 devices"),  # one RAM
        (["model=gpt_oss_20b", "method=gptq", "group_size=32", "hw=h200", "exempt=boundary"], "use rules that leave experts"),
        (["model=llama3_1_8b", "hw=h100", "runtime.args.max_model_len=1000000"], "supports 131072 tokens; use .*=131072"),
        (["method=nvfp4", "group_size=-1", "unservable=measure"], "NVFP4 exists at group 16 only"),
        (["method=w8a8", "hw=b200", "unservable=measure"], "no INT8 product from Blackwell on; use method=fp8$"),
        (["method=nvfp4_w4a4", "group_size=64", "unservable=measure"], "NVFP4 exists at group 16 only .* for other sizes$"),
        (["method=fp8_block", "runtime=transformers"], "576 inputs, and fp8_block needs multiples of 128"),
        (["method=mxfp4"], "no MXFP4 kernel for linear layers on a CPU; use method=gptq .*, or unservable=measure"),
        (["model=qwen3_8b", "method=auto_gptq", "hw=h100"], "qwen2 only, and this is a qwen3; use method=gptqmodel"),
        (["model=mixtral_8x7b", "method=auto_gptq", "hw=h100"], "and this is a mixtral; use method=gptqmodel"),
        (["model=qwen3_30b_a3b", "method=autoawq", "hw=h100"], "qwen3 only, and this is a qwen3_moe; use method=awq$"),
        (["method=autoawq", "group_size=-1"], "int4 as awq exists at group 32 or 64 or 128 only; use group_size=32"),
        (["model=gemma3_270m", "method=awq"], "into norms, and a gemma3_text stores norm weights minus one: .*; use"),
        (["model=gemma3_4b", "hw=h100", "method=autoawq"], "and a gemma3 stores norm weights minus one: .*; use method=gptq"),
        (["model=qwen3_30b_a3b", "method=autoround", "hw=h100"], "mixture of experts, .* run only on none; use method=gptq"),
        (["method=bnb_nf4"], "0.27.1 was the last, .* vllm-bnb-plugin .*; use runtime=transformers_bnb for its quality"),
        (["method=bnb_nf4", "runtime=transformers"], "does not have BitsAndBytes; use runtime=transformers_bnb"),
        (["method=rtn", "runtime=transformers_bnb"], "nothing that reads another format; use runtime=transformers"),
        (["method=bnb_nf4", "group_size=32", "runtime=transformers_bnb"], "nf4 exists at group 64 only; use group_size=64"),
        (["exempt.lm_head.match=[]"], r"lm_head.match=\[\]: it names nothing"),
        (["method=nvfp4", "group_size=64"], "NVFP4 exists at group 16 only .* use group_size=16, .* or unservable=measure"),
    ],
)  # fmt: skip
def test_what_cannot_work_says_the_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.compile(message, re.S)):
        planned(*overrides)


def test_a_config_that_the_library_reads_otherwise_is_refused(tmp_path: Path) -> None:
    """transformers 4 takes rope_theta, and 10,000 where there is none: it would calibrate another model."""
    config = {**DENSE, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    file = tmp_path / "config.json"
    given = ("model=local", "model.name=x", f"model.architecture={file}", "method=autoawq", "hw=h100")
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"transformers 4 does not read.*add rope_theta .* or use method=awq"):
        planned(*given)
    file.write_text(json.dumps({**config, "rope_theta": 1e6}))
    assert planned(*given).layout == "awq"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=gptq", f"{GPTQ}.symmetric=false"], "its args say asymmetric, .* set method.format=int4_asym too$"),
        (["method=awq", f"{AWQ}.symmetric=true"], "its args say symmetric, .* set method.format=int4 too$"),
        (["method=gptqmodel", "method.args.sym=false"], "its args say asymmetric, .* set method.format=gptq_asym too$"),
    ],
)
def test_an_option_that_makes_another_layout_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(job(*overrides))
    check(job(*overrides, f"method.format={message.split('format=')[1].split()[0]}"))


def test_a_recipe_of_mixed_precision_is_refused() -> None:
    mixed = job("method=rtn")
    groups = mixed.method.args["QuantizationModifier"]["config_groups"]
    groups["group_1"] = next(iter(groups.values()))
    with pytest.raises(
        ValueError, match=r"method\.args\.QuantizationModifier\.config_groups: .*group_1: a method makes one format"
    ):
        check(mixed)


def test_nf4_counts_what_lies_beside_its_weights() -> None:
    made = planned("method=bnb_nf4", "runtime=transformers_bnb")
    assert (
        made.parts["attention"].bytes + made.parts["mlp"].bytes == made.bytes - made.parts["embedding"].bytes - 70_272
    )
    assert made.quantized_bits_per_weight == pytest.approx(4.5, abs=0.01)


def test_two_experiments_that_are_one_plan_say_so() -> None:
    """The seed's A2 is A1: embeddings are never quantized."""
    a1, a2 = (
        planned("model=llama3_1_8b", "method=nvfp4", "hw=h100", f"exempt=[{e}]")
        for e in ("lm_head", "lm_head,embed_tokens")
    )
    assert a1.identity() == a2.identity()
    assert any("exempt.embed_tokens changes nothing" in note for note in a2.notes)


def test_a_machine_that_nobody_here_had_is_planned_with_what_is_known_of_it() -> None:
    amd = planned("hw=mi325x", "method=gptq").notes
    assert (
        "runtime=container_rocm: vLLM's image and the options of its documentation, put together here and never run"
        in amd
    )
    assert any(note.startswith("hw=mi325x: quantizing uses the GPU with ROCm's torch only") for note in amd)
    assert any("artifact=PATH" in note for note in amd)
    assert any("aarch64 build has code for SM110" in note for note in planned("hw=thor", "method=nvfp4").notes)
    assert not any("hw=" in note for note in planned("hw=mi325x", "method=bf16").notes), "nothing is quantized"
    assert any("ROCm's torch" in n for n in planned("hw=mi325x", "method=bf16", "runtime=transformers").notes)
    assert not any("hw=" in note or "runtime=" in note for note in planned("hw=h100", "method=gptq").notes)


def test_matrices_of_odd_sizes_have_another_kernel() -> None:
    """As vLLM 0.26's log on an H200 says: results/smollm2_135m-rtn-h200.json."""
    small, large = (planned(f"model={m}", "method=rtn", "hw=h200") for m in ("smollm2_135m", "qwen3_8b"))
    assert (
        support_matrix.kernels(small.serving) == "MacheteLinearKernel, HummingLinearKernel for sizes it does not take"
    )
    assert support_matrix.kernels(large.serving) == "MacheteLinearKernel"
    there = plan.make(job("model=smollm2_135m", "method=rtn", "hw=h200"), None, "0.26.0")
    seen = json.loads((ROOT / "results" / "smollm2_135m-rtn-h200.json").read_text())["measured"]["serve"]["kernels"]
    assert [line.partition(" for ")[0] for line in seen] == [there.serving.kernel, there.serving.beside]


def test_legal_tp_sizes_stop_where_a_group_would_be_cut() -> None:
    found = {
        g: planned("model=qwen3_30b_a3b", "method=gptq", "hw=h200", f"group_size={g}").tensor_parallel
        for g in (32, 64, 128)
    }
    assert found == {32: [1, 2, 4, 8], 64: [1, 2, 4], 128: [1, 2]}  # 768 inputs of an expert's down_proj


def test_the_largest_models_plan() -> None:
    for model in ("kimi_k2", "deepseek_v3"):
        made = planned(f"model={model}", "method=nvfp4", "hw=b200", "+runtime.args.tensor_parallel_size=8")
        assert len(made.quantized) > 40_000
        assert made.estimates.memory.fits


def test_names_in_the_checkpoint_as_exported_and_in_vllm() -> None:
    names = planned("model=qwen3_omni_30b", "method=nvfp4_llmc", "hw=h100").names
    assert names["thinker.model.layers.N.self_attn.k_proj"] == {
        "exported": ["thinker.model.layers.N.self_attn.k_proj"],
        "vllm": "language_model.model.layers.N.self_attn.qkv_proj",
    }
    assert names["thinker.model.layers.N.mlp.experts.N.up_proj"]["vllm"].endswith("layers.N.mlp.experts")
    assert {entry["vllm"] for name, entry in names.items() if name.startswith("talker.")} == {"not loaded"}
    stacked = planned("model=gpt_oss_20b", "method=gptq", "group_size=32", "hw=h200").names
    assert stacked["model.layers.N.mlp.experts.gate_up_proj"]["exported"] == [
        "model.layers.N.mlp.experts.N.gate_proj", "model.layers.N.mlp.experts.N.up_proj",
    ]  # fmt: skip


def test_stacked_experts_are_read_by_a_forward_pass() -> None:
    made = planned("model=gpt_oss_20b", "method=gptq", "group_size=32", "hw=h200").estimates
    assert made.speed is not None
    assert made.bf16_speed is not None
    assert 500 < made.bf16_speed.decode_1 < 800  # 3.6 B active parameters of 2 bytes, 4.8 TB/s
    assert made.speed.decode_1 / made.bf16_speed.decode_1 > 2


def test_phi_has_ten_kv_heads() -> None:
    assert planned("model=phi4", "hw=h100").tensor_parallel == [1, 2]
