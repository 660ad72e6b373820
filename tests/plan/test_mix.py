"""Several formats in one checkpoint: what each matrix gets, to the byte, and what no server would take."""

from __future__ import annotations

import re

import pytest
from support.jobs import job

from qforge.pipeline.checks import check
from qforge.plan import plan
from qforge.plan.support_matrix import How


def planned(*overrides: str) -> plan.Plan:
    return plan.make(job("method=mixed", *overrides), None)


def bytes_of(made: plan.Plan, kind: str) -> int:
    return made.parts[kind].bytes


def test_each_part_is_as_large_as_in_a_checkpoint_of_its_format_alone() -> None:
    made = planned("model=qwen3_8b", "hw=h200")
    fp8, nvfp4 = (plan.make(job("model=qwen3_8b", "hw=h200", f"method={m}"), None) for m in ("fp8", "nvfp4_llmc"))
    assert bytes_of(made, "attention") == bytes_of(fp8, "attention")
    assert bytes_of(made, "mlp") == bytes_of(nvfp4, "mlp")
    assert made.bytes == sum(part.bytes for part in made.parts.values())
    assert made.ignore == ["lm_head"]
    assert [(share.method, share.layout, len(share.modules)) for share in made.shares] == [
        ("nvfp4_llmc", "nvfp4", 108), ("fp8", "fp8", 144),
    ]  # fmt: skip
    assert made.serving.how is How.weight_only
    assert made.serving.kernel == "nvfp4_llmc: HummingNvFp4LinearKernel, fp8: CutlassFP8ScaledMMLinearKernel"
    assert nvfp4.quantized_bits_per_weight < made.quantized_bits_per_weight < fp8.quantized_bits_per_weight


def test_the_last_entry_that_names_a_matrix_counts() -> None:
    made = planned(
        "model=qwen3_8b", "hw=h200", "method.formats.mlp=rtn:128", "+method.formats.down_proj=rtn:64",
        "+method.formats={block\\:first: bf16}",
    )  # fmt: skip
    given = made.given
    assert given["model.layers.1.mlp.down_proj"] == "rtn:64"
    assert given["model.layers.1.mlp.up_proj"] == "rtn:128"
    assert not [name for name in given if ".layers.0." in name]
    assert "model.layers.0.mlp.down_proj" in made.ignore
    assert {(share.layout, share.group_size) for share in made.shares} == {("int4", 64), ("int4", 128), ("fp8", None)}


def test_experts_have_one_format_and_attention_another() -> None:
    made = planned("model=qwen3_30b_a3b", "hw=h200", "exempt=boundary")
    assert {share.method: {m.kind for m in share.modules} for share in made.shares} == {
        "fp8": {"attention"}, "nvfp4_llmc": {"expert"},
    }  # fmt: skip
    assert "HUMMING experts" in made.serving.kernel
    assert "model.layers.0.mlp.experts.0.gate_proj" in made.ignore


def test_a_size_that_one_format_cannot_be_cut_into_is_legal_for_none() -> None:
    alone = plan.make(job("model=qwen3_8b", "hw=h200", "method=rtn", "group_size=128"), None).tensor_parallel
    assert planned("model=qwen3_8b", "hw=h200", "method.formats.mlp=rtn:128").tensor_parallel == alone


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("+method.formats.k_proj=rtn",), "k_proj would be in rtn and model.layers.0.self_attn.q_proj in fp8; vLLM computes"),
        (("+method.formats.gate_proj=bf16",), "gate_proj would be in bf16 and model.layers.0.mlp.up_proj in nvfp4_llmc"),
        (("hw=mi325x",), "method.formats.mlp=nvfp4_llmc: method=nvfp4_llmc hw=mi325x: NVFP4 weight-only is forced onto Marlin"),
        (("hw=mi325x",), "(which is said of a whole model; here give this part another format)"),
        (("hw=b200", "method.formats.mlp=w8a8"), "method.formats.mlp=w8a8: method=w8a8 hw=b200: CUTLASS is chosen and fails"),
        (("method.formats.mlp=rtn:48",), "method.formats.mlp=rtn:48: group_size=48 method=rtn: int4 exists at group -1 or 32"),
        (("method.formats.mlp=fp8:64",), "group_size=64 method=fp8: fp8 has no groups"),
        (("group_size=64",), "each part of a mix has its own; leave it out, and use method.formats.mlp=rtn:64"),
        (("+method.formats.lm_head=fp8",), "method.formats.lm_head: lm_head stays in bf16"),
        (("+method.formats.fc1=fp8",), "method.formats.fc1: 'role:fc1' matches no module"),
        (("method.formats.mlp=bf16", "method.formats.attention=bf16"), "every matrix stays in bf16; use method=bf16, or give"),
        (("+runtime.args.tensor_parallel_size=3",), "tensor_parallel_size=3 method=mixed hw=h200: 32 attention heads"),
        (("runtime=transformers_bnb",), "the environment bitsandbytes has nothing that reads another format"),
    ],
)  # fmt: skip
def test_what_no_server_would_take_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        planned("model=qwen3_8b", *(() if any(o.startswith("hw=") for o in overrides) else ("hw=h200",)), *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method=rtn", "+method.formats.mlp=fp8"), "method.formats method=rtn: only method=mixed reads it"),
        (("method=rtn", "method.candidates=[fp8,rtn]"), "method.candidates method=rtn: only method=budget reads them"),
        (
            ("method=mixed", "method.bits=8"),
            "method.bits=8.0 method=mixed: only method=budget with its candidates has a size",
        ),
    ],
)
def test_keys_of_a_mix_are_no_other_methods(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(job(*overrides))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gptq", "method.formats.mlp=gptq: is no method whose weights stream; use one of bf16, fp8, mxfp4, nvfp4_llmc, rtn"),
        ("mixed", "method.formats.mlp=mixed: is no method whose weights stream"),
        ("rtn:many", "method.formats.mlp=rtn:many: 'many' is no group size; use rtn:64, or rtn alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_refused_before_anything_is_planned(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        job("method=mixed", f"method.formats.mlp={value}")
