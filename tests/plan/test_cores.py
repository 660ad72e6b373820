"""The text core of a multimodal model: where it is, what the plan says of it, and where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.checkpoints import tree
from support.jobs import job

from qforge.models.core import Core, renamed
from qforge.plan import cores, plan, towers


@pytest.mark.parametrize(
    ("model", "method", "core"),
    [
        ("gemma3_4b", "gptq", Core("language_model.model.", None, "gemma3_text")),
        ("qwen2_5_vl_7b", "awq", Core("model.", "lm_head", "qwen2")),
        ("qwen3_vl_8b", "nvfp4", Core("model.language_model.", "lm_head", "qwen3")),
        ("qwen3_omni_30b", "nvfp4_gptq", Core("thinker.model.", "thinker.lm_head", "qwen3_moe")),
        ("qwen3_vl_8b", "nvfp4_llmc", None),  # a stream
        ("qwen3_8b", "gptq", None),
        ("qwen3_vl_8b", "bf16", None),
    ],
)
def test_the_core_of_a_known_family(model: str, method: str, core: Core | None) -> None:
    made = plan.make(job(f"model={model}", f"method={method}", "hw=h100"), None)
    assert made.core == core
    said = "".join(note for note in made.notes if "the text core" in note)
    assert bool(said) == bool(core)
    assert ("calibration sees text only" in said) == (core is not None and method != "nvfp4")


def test_names_go_in_and_out() -> None:
    core = Core("language_model.model.", "language_model.lm_head", None)
    names = [
        "language_model.model.layers.0.mlp.up_proj.weight",
        "language_model.lm_head.weight",
        "language_model.lm_head",
    ]
    inside = ["model.layers.0.mlp.up_proj.weight", "lm_head.weight", "lm_head"]
    assert core.all_inside([*names, "vision_tower.layers.0.mlp.up_proj.weight"]) == inside
    assert [core.outside(name) for name in inside] == names
    assert Core("model.", None, None).inside("lm_head") == "lm_head"  # a tied one is named too
    assert Core("model.", "lm_head", None).inside("lm_head_norm.weight") is None


def test_what_stays_in_16_bits_is_said_in_the_words_of_each_library() -> None:
    exempt = ["visual.merger", "lm_head"]
    assert renamed({"ignore": ["lm_head"], "bits": 4}, exempt) == {"ignore": ["lm_head", "visual.merger"], "bits": 4}
    assert renamed({"modules_to_not_convert": None}, exempt) == {"modules_to_not_convert": ["lm_head", "visual.merger"]}
    assert renamed({"dynamic": {"-:^lm_head$": {}}}, exempt) == {
        "dynamic": {"-:^lm_head$": {}, "-:^visual\\.merger$": {}}
    }
    assert renamed({"quantization": {"exclude_modules": []}}, exempt) == {
        "quantization": {"exclude_modules": ["lm_head", "visual.merger"]}
    }


def test_a_core_that_cannot_be_taken_out_is_refused_in_the_plan(tmp_path: Path) -> None:
    answer = {
        "library": "transformers 5.17.0",
        "built": "X",
        "core": {"why": "transformers has no causal language model"},
    }
    (tmp_path / "result.json").write_text(json.dumps(answer))
    wanted = job("model=qwen3_vl_8b", "method=gptq", "hw=h100")
    with pytest.raises(
        ValueError, match=r"method=gptq model=qwen3_vl_8b: .* transformers has no causal .*; use method=rtn"
    ):
        plan.make(replace(wanted, model=replace(wanted.model, structure=str(tmp_path / "result.json"))), None)
    modules = [replace(m, name=f"other.{m.name}") if m.block == 0 else m for m in tree("qwen3_vl_8b")]
    with pytest.raises(ValueError, match=r"begin at model.language_model, other.model.language_model, not at one"):
        cores.needed(wanted, modules, {"model_type": "qwen3_vl"}, None)


def test_scales_of_the_cache_need_a_text_core() -> None:
    wanted = ("model=qwen3_vl_8b", "hw=h100", "kv=fp8_calibrated")
    with pytest.raises(ValueError, match=r"kv=fp8_calibrated model=qwen3_vl_8b: .* one has towers; use method=gptq"):
        plan.make(job(*wanted, "method=rtn"), None)
    assert plan.make(job(*wanted, "method=gptq"), None).core


def test_an_environment_that_cannot_import_the_class_of_a_model_with_towers_is_refused() -> None:
    wanted = ("model=qwen3_vl_8b", "method=gptq", "hw=cpu")
    assert plan.make(job(*wanted), None).core
    alone = (*wanted, "runtime.towers=null")
    with pytest.raises(ValueError, match=r"runtime=vllm_cpu model=qwen3_vl_8b: .* import torchvision, .*; use stages="):
        plan.make(job(*alone), None)
    assert plan.make(job(*alone, "stages=[quantize,inspect]"), None).core
    assert plan.make(job(*alone, "+envs.vllm_cpu.python=/x"), None).core


def test_models_with_towers_are_served_in_the_environment_for_them() -> None:
    for name, env in (("qwen3_vl_8b", "vllm_cpu_multimodal"), ("qwen3_8b", "vllm_cpu")):
        wanted = job(f"model={name}", "method=bf16", "hw=cpu")
        assert towers.served_by(wanted, plan.make(wanted, None).modules).runtime.env == env
        assert towers.environments(wanted) == {env}
    unknown = job("model=local", "model.path=null", "model.hub=somebody/something", "hw=cpu")
    assert towers.environments(unknown) == {"vllm_cpu", "vllm_cpu_multimodal"}
