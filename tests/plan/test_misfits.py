"""A matrix that the format cannot hold stays in bf16 and is listed; where that is much of the model, the plan is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoints import small_llama, tiny_job, tree
from support.jobs import job

from qforge.plan import misfits, plan, support_matrix
from qforge.plan.feasibility import refuse_unread
from qforge.plan.support_matrix import How, Serving

MARLIN = Serving(How.weight_only, "MarlinLinearKernel", "", "", experts_kernel="MARLIN INT4 experts")
FIRST = "model.layers.0.self_attn"


def planned(folder: Path, *overrides: str) -> plan.Plan:
    return plan.make(tiny_job(folder, "method=rtn", "group_size=32", "exempt=none", *overrides), folder)


def test_an_unknown_model_keeps_in_bf16_what_the_group_size_does_not_divide(tmp_path: Path) -> None:
    made = planned(small_llama(tmp_path / "own", model_type="own", intermediate_size=144))
    downs = [f"model.layers.{n}.mlp.down_proj" for n in (0, 1)]
    assert len(made.quantized) == 12
    assert set(made.ignore) == {"lm_head", *downs}
    assert made.untouched[downs[0]] == "misfit: the format or its kernel cannot hold a matrix of its shape"
    (note,) = [n for n in made.notes if "do not fit" in n]
    assert note == (
        "matrices that do not fit the format stay in bf16 (2): model.layers.N.mlp.down_proj (144 inputs, which group_size=32 "
        "does not divide)"
    )


def test_a_family_that_is_known_is_refused_with_the_group_that_fits(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"down_proj has 144 inputs, which 32 does not divide \(2 of 14 matrices\); .*group_size=-1"
    ):
        planned(small_llama(tmp_path / "llama", intermediate_size=144))


def test_a_group_that_fits_hardly_anything_is_refused_whatever_the_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 80 inputs, which 32 does not divide \(10 of 14 matrices\)"):
        planned(small_llama(tmp_path / "own", model_type="own", hidden_size=80, intermediate_size=160))


def test_a_format_of_one_group_names_no_other(tmp_path: Path) -> None:
    folder = small_llama(tmp_path / "llama", hidden_size=72, intermediate_size=144)
    with pytest.raises(ValueError, match=r"group_size=16: .* use another method, or exempt those layers"):
        plan.make(tiny_job(folder, "method=nvfp4_llmc", "exempt=none"), folder)


def test_one_odd_matrix_takes_along_what_is_computed_with_it() -> None:
    linear = [m for m in tree("llama3_1_8b") if m.linear]
    odd = [replace(m, in_features=4000) if m.name == f"{FIRST}.q_proj" else m for m in linear]
    found = misfits.found("llama", "int4", 64, odd, MARLIN, support_matrix.NEWEST)
    assert found == dict.fromkeys(
        (f"{FIRST}.k_proj", f"{FIRST}.q_proj", f"{FIRST}.v_proj"), "4000 inputs, which group_size=64 does not divide"
    )
    kinds = {m.name: m.kind for m in misfits.left_alone(odd, found)}
    assert {kinds[name] for name in found} == {"misfit"}
    assert kinds[f"{FIRST}.o_proj"] == "attention"


def test_an_odd_number_of_outputs_that_one_kernel_takes_and_another_does_not() -> None:
    linear = [m for m in tree("llama3_1_8b") if m.linear]
    odd = [replace(m, out_features=4100) if m.name == f"{FIRST}.o_proj" else m for m in linear]
    on_cpu = replace(MARLIN, kernel="CPUWNA16LinearKernel")
    assert (
        misfits.found("llama", "int4", 64, odd, replace(MARLIN, kernel="MacheteLinearKernel"), support_matrix.NEWEST)
        == {}
    )
    assert list(misfits.found("llama", "int4", 64, odd, on_cpu, support_matrix.NEWEST)) == [f"{FIRST}.o_proj"]


def test_experts_of_a_layer_stay_together() -> None:
    linear = [m for m in tree("qwen3_30b_a3b") if m.linear]
    expert = "model.layers.3.mlp.experts.7.down_proj"
    odd = [replace(m, in_features=700) if m.name == expert else m for m in linear]
    found = misfits.found("qwen3_moe", "int4", 64, odd, MARLIN, support_matrix.NEWEST)
    assert {name.partition(".experts.")[0] for name in found} == {"model.layers.3.mlp"}
    assert len(found) == 128 * 3


def test_what_transformers_reads_no_packed_form_of_is_not_scored_through_it() -> None:
    through = job("method=rtn", "runtime=transformers")
    (q, *_) = (m for m in tree("llama3_1_8b") if m.leaf == "q_proj")
    with pytest.raises(
        ValueError, match="q_proj is a Conv1D in transformers, which reads no packed one; use a runtime of"
    ):
        refuse_unread(through, [q, replace(q, transposed=True)])
    stacked = next(m for m in tree("gpt_oss_20b") if m.stack > 1 and m.linear)
    with pytest.raises(
        ValueError, match=r"experts\.\w+ holds the experts of its layer, which come apart .* or method=bf16"
    ):
        refuse_unread(through, [stacked])
    with pytest.raises(ValueError, match="q_proj is a thinker's, of which transformers reads nothing packed; use a"):
        refuse_unread(through, [replace(q, name=f"thinker.{q.name}")])
    refuse_unread(through, [q, replace(stacked, transposed=False)])  # as Qwen's, which transformers puts together
    for other in (job("method=rtn", "hw=h100"), job("method=bf16", "runtime=transformers"),
                  job("method=rtn", "runtime=transformers", "stages=[quantize,inspect]")):  # fmt: skip
        refuse_unread(other, [stacked])


def test_a_plan_of_gpt_oss_says_so() -> None:
    wanted = job(
        "model=gpt_oss_20b", "method=rtn", "runtime=transformers", "unservable=measure", "exempt=none", "group_size=32"
    )
    with pytest.raises(ValueError, match="transformers looks for them in one"):
        plan.make(wanted, None)
