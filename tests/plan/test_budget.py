"""A checkpoint of a given size: what there is to choose from, and sizes that nothing has."""

from __future__ import annotations

import re

import pytest
from support.jobs import job

from qforge.config.job import Job
from qforge.plan import budget, plan


def wanted(*overrides: str) -> Job:
    return job("method=budget", "model=qwen3_8b", "hw=h200", "method.bits=8", *overrides)


def test_fused_matrices_are_one_part_and_sizes_are_those_of_plans() -> None:
    found = budget.options(wanted(), None)
    assert len(found.parts) == 36 * 4
    alone = {
        m: plan.make(job("model=qwen3_8b", "hw=h200", f"method={m}"), None).bytes for m in ("fp8", "nvfp4_llmc", "bf16")
    }
    assert (found.smallest, found.largest) == (alone["nvfp4_llmc"], alone["bf16"])
    assert found.rest + sum(sizes["fp8"] for sizes in found.bytes) == alone["fp8"]
    assert set(budget.smallest(found).values()) == {"nvfp4_llmc"}
    half = found.formats(["fp8" if part.kind.endswith("qkv_proj") else "bf16" for part in found.parts])
    assert half["model.layers.3.self_attn.k_proj"] == "fp8"
    assert "model.layers.3.mlp.down_proj" not in half


def test_experts_of_a_layer_are_one_part_named_by_their_layer() -> None:
    found = budget.options(wanted("model=qwen3_30b_a3b"), None)
    formats = budget.smallest(found)
    assert formats[r"re:model\.layers\.47\.mlp\.experts\..*"] == "nvfp4_llmc"
    assert len(formats) == 48 * 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method.bits=3",), "the smallest that method.candidates=['bf16', 'fp8', 'nvfp4_llmc'] come to is 6.248"),
        (("method.candidates=[fp8,nvfp4_llmc]", "method.bits=12"), "everything in its largest format takes 9.22; use less, or"),
        (("method.bits=null",), "method.bits: say how many bits per weight the checkpoint may have: method.bits=11.1"),
        (("method.candidates=[bf16,rtn:48]",), "method.candidates: rtn:48: group_size=48 method=rtn: int4 exists at group -1"),
        (("method.candidates=[bf16,rtn:64,rtn]",), "rtn:64 and rtn are one format; leave one out"),
        (("method.bits=16",), "everything in its largest format takes 16; use less, or method=bf16"),
        (("method.candidates=[fp8]",), "method.candidates=['fp8']: leaves nothing to choose"),
        (("hw=mi325x",), "method=nvfp4_llmc hw=mi325x: NVFP4 weight-only is forced onto Marlin"),
        (("model=qwen3_8b_random",), "random weights have no quality to measure; use method=mixed"),
        (("artifact=/a/mix",), "method=budget artifact=/a/mix: a given checkpoint has its formats, and none is"),
        (("model=gpt_oss_20b",), "holds all experts of its layer in one tensor, whose rounding is not measured"),
    ],
)  # fmt: skip
def test_what_no_choice_has_is_refused(overrides: tuple[str, ...], message: str) -> None:
    made = wanted(*overrides)
    with pytest.raises(ValueError, match=re.escape(message)):
        budget.refuse_size(made, budget.options(made, None))
