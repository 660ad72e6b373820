"""Other people's artifacts: what they are is read from them, and what does not fit the source is not accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.artifacts import Change, artifact
from support.checkpoints import DENSE, checkpoint, in_quant
from support.command import ROOT, Cli

from qforge.inspect import companions
from qforge.json_files import read_json

WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": True}
INT4 = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}}}  # fmt: skip
W4A4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
KV = {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}
TOKENIZER = {
    "tokenizer.json": '{"model": {"vocab": {"a": 1}}}',
    "tokenizer_config.json": '{"model_max_length": 64}',
    "preprocessor_config.json": '{"size": 224}',
    "chat_template.jinja": "{{ messages }}",
    "LICENSE": "free",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small Llama with everything that lies beside one."""
    for name, text in TOKENIZER.items():
        (tmp_path / name).write_text(text)
    config = {**DENSE, "rope_theta": 10000.0, "vocab_size": 512}
    folder = checkpoint(tmp_path / "plain", config, tmp_path, files=1)
    for name in TOKENIZER:
        shutil.copyfile(tmp_path / name, folder / name)
    return folder


@pytest.fixture
def inspected(cli: Cli, source: Path) -> Callable[..., str]:
    """What the command line says of an artifact, white space made plain, after its exit code."""

    def run(folder: Path, *overrides: str) -> str:
        done = cli("model=local", "model.name=plain", f"model.path={source}", f"artifact={folder}", "exempt=none", *overrides,
                   "stages=[inspect]")  # fmt: skip
        return f"{done.code} " + " ".join(done.output.split())

    return run


def scale(name: str, value: float) -> Change:
    return lambda tensors: tensors.update({name: np.full((), value, np.float32)})


def kv(value: float) -> Change:
    names = [f"model.layers.{n}.self_attn.{part}_proj.{part}_scale" for n in range(2) for part in "kv"]
    return lambda tensors: tensors.update({name: np.full((), value, np.float32) for name in names})


@pytest.mark.parametrize("method", ["nvfp4", "nvfp4_w4a4"])
@pytest.mark.parametrize("legacy", [False, True])
def test_modelopts_w4a4_is_read_from_the_artifact(
    inspected: Callable[..., str], source: Path, tmp_path: Path, method: str, legacy: bool
) -> None:
    given = artifact(source, tmp_path / "a", "nvfp4_w4a4_modelopt", None if legacy else W4A4)
    if legacy:
        said = {"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}
        (given / "hf_quant_config.json").write_text(json.dumps(said))
    assert inspected(given, f"method={method}", "hw=b200").startswith("0 ")


@pytest.mark.parametrize(
    ("change", "says", "words"),
    [
        (kv(0.02), KV, ""),
        (kv(0.0), KV, "scales of the KV cache: model.layers.0.self_attn.k_proj.k_scale (0)"),
        (kv(0.02), {}, "unexpected: model.layers.0.self_attn.k_proj.k_scale"),
        (lambda tensors: None, KV, "says that the KV cache has scales (kv_cache_scheme), but the checkpoint has none"),
        (scale("model.layers.1.self_attn.v_proj.v_scale", 0.02), KV, "model.layers.1.self_attn (of v only)"),
        (scale("model.layers.0.self_attn.k_proj.weight_scale_2", 0.02), {}, "global scales that differ within a fused matrix: "
         "model.layers.0.self_attn.k_proj 2.000e-02, model.layers.0.self_attn.q_proj 3.333e-02"),
    ],
)  # fmt: skip
def test_scales_beside_the_weights(
    inspected: Callable[..., str], source: Path, tmp_path: Path, change: Change, says: dict[str, Any], words: str
) -> None:
    given = artifact(source, tmp_path / "a", "nvfp4_w4a4_modelopt", {**W4A4, **says}, change)
    said = inspected(given, "method=nvfp4", "hw=b200")
    assert said.startswith("1 " if words else "0 "), said
    assert words in said


def test_its_own_ignore_list_says_what_is_in_bf16(inspected: Callable[..., str], source: Path, tmp_path: Path) -> None:
    listed = {**INT4, "ignore": ["lm_head", "re:.*self_attn.*"]}
    given = artifact(source, tmp_path / "a", "int4", listed, bf16=("self_attn",))
    said = inspected(given, "method=rtn", "group_size=128")  # the group size is read as well
    assert said.startswith("0 "), said
    assert "exempt.artifact 8 kept in bf16" in said
    split = artifact(
        source, tmp_path / "b", "int4", {**INT4, "ignore": ["lm_head", "re:.*q_proj"]}, bf16=("self_attn",)
    )
    assert "the ignore list lists some but not all parts of model.layers.0.self_attn.qkv_proj" in inspected(
        split, "method=rtn"
    )


def test_what_no_target_names_is_in_bf16(inspected: Callable[..., str], source: Path, tmp_path: Path) -> None:
    groups = {"group_0": {"targets": ["re:.*mlp.*"], "weights": WEIGHTS}}
    given = artifact(source, tmp_path / "a", "int4", {**INT4, "config_groups": groups}, bf16=("self_attn",))
    said = inspected(given, "method=rtn")
    assert said.startswith("0 "), said
    assert "exempt.artifact 8 kept in bf16" in said


def halves(tensors: dict[str, np.ndarray]) -> None:
    """As AutoAWQ and GPTQModel save what they leave alone."""
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name].astype(np.float16)


def groups_of_inputs(tensors: dict[str, np.ndarray]) -> None:
    """As llm-compressor saves an order of activations by groups."""
    for name in [name for name in tensors if name.endswith(".weight_packed")]:
        inputs = 8 * tensors[name].shape[1]
        tensors[name.replace("weight_packed", "weight_g_idx")] = (np.arange(inputs) // 64).astype(np.int32)


@pytest.mark.parametrize(
    ("change", "weights", "words"),
    [
        (halves, {}, ""),
        (groups_of_inputs, {"actorder": "group"}, ""),
        (groups_of_inputs, {"actorder": "static"}, "unexpected: model.layers.0.mlp.down_proj.weight_g_idx"),
        (groups_of_inputs, {}, "unexpected: model.layers.0.mlp.down_proj.weight_g_idx"),
    ],
)
def test_what_other_tools_write_beside_the_weights(
    inspected: Callable[..., str], source: Path, tmp_path: Path, change: Change, weights: dict[str, Any], words: str
) -> None:
    groups = {"group_0": {"targets": ["Linear"], "weights": {**WEIGHTS, **weights}}}
    given = artifact(source, tmp_path / "a", "int4", {**INT4, "config_groups": groups}, change)
    said = inspected(given, "method=rtn", "group_size=64")
    assert said.startswith("1 " if words else "0 "), said
    assert words in said


def test_another_format_than_the_methods_is_refused(
    inspected: Callable[..., str], source: Path, tmp_path: Path
) -> None:
    given = artifact(source, tmp_path / "a", "int4", INT4)
    said = inspected(given, "method=nvfp4", "hw=b200")
    assert said.startswith("2 ")
    assert "its config.json says int4, method=nvfp4 makes nvfp4_modelopt; give the method that made it" in said


def test_a_mix_is_planned_as_vllm_reads_it(inspected: Callable[..., str], source: Path, tmp_path: Path) -> None:
    fp8 = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}, "format": "float-quantized"}
    idle = {**INT4["config_groups"], "group_1": fp8}  # without a target: it is nobody's format
    given = artifact(source, tmp_path / "a", "int4", {**INT4, "config_groups": idle})
    assert inspected(given, "method=rtn").startswith("0 ")
    split = {**INT4["config_groups"], "group_1": {**fp8, "targets": ["re:.*self_attn"]}}
    said = inspected(artifact(source, tmp_path / "b", "int4", {**INT4, "config_groups": split}), "method=rtn")
    assert "mixed: 6 matrices" not in said
    assert "int4:64: 6 matrices" in said
    assert "fp8: 8 matrices" in said
    assert "missing: model.layers.0.self_attn.k_proj.weight" in said
    odd = {**INT4["config_groups"], "group_1": {**fp8, "targets": ["re:.*self_attn"], "format": "nobody's"}}
    said = inspected(artifact(source, tmp_path / "c", "int4", {**INT4, "config_groups": odd}), "method=rtn")
    assert "config.json: mixed precision (int4 g64, an unknown format), which this plan does not have" in said


def edit(config: dict[str, Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, **config}))

    return change


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit({"rope_theta": 500000.0}), ["rope_theta is 500000.0, the source has 10000.0"]),
        (edit({"num_hidden_layers": 1}), ["num_hidden_layers is 1, the source has 2"]),
        (edit({"tie_word_embeddings": True}), ["tie_word_embeddings is True, the source has False"]),
        (edit({"vocab_size": 600}), ["vocab_size is 600, the source has 512"]),
        (
            edit({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}),
            ["rope_theta is 5.0, the source has 10000.0"],
        ),
        (edit({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "head_dim": None}), []),
        (edit({"transformers_version": "6", "torch_dtype": "float16", "use_cache": False, "new": 1}), []),
        (remove("tokenizer.json"), ["tokenizer.json is missing"]),
        (remove("preprocessor_config.json"), ["preprocessor_config.json is missing"]),
        (remove("LICENSE"), []),
        (remove("chat_template.jinja"), ["chat_template.jinja is missing"]),
        (write("tokenizer.json", '{"model": {"vocab": {"a": 2}}}'), ["tokenizer.json differs from the source's"]),
        (write("tokenizer.json", '{\n "model": {"vocab": {"a": 1}}}'), []),
        (write("tokenizer_config.json", '{"model_max_length": 64, "added": 1}'), []),
        (write("preprocessor_config.json", '{"size": 448}'), ["preprocessor_config.json differs from the source's"]),
        (write("chat_template.jinja", "{{ other }}"), ["chat_template.jinja differs from the source's"]),
    ],
)
def test_what_lies_beside_the_weights(
    source: Path, tmp_path: Path, change: Callable[[Path], None], words: list[str]
) -> None:
    given = shutil.copytree(source, tmp_path / "given")
    assert list(companions.faults(given, source)) == []
    change(given)
    faults = list(companions.faults(given, source))
    assert len(faults) == len(words), faults
    assert all(word in fault for word, fault in zip(words, faults, strict=True)), faults


SAID = {
    "rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "final_logit_softcapping": 30.0,
    "layer_types": ["full_attention", "sliding_attention"], "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    "partial_rotary_factor": 0.5, "attention_bias": False, "text_config": {"query_pre_attn_scalar": 224},
}  # fmt: skip


@pytest.mark.parametrize("lost", [key for key in SAID if key not in ("rope_theta", "attention_bias")])
def test_what_a_class_would_compute_otherwise_is_not_lost(lost: str) -> None:
    for given in ({key: value for key, value in SAID.items() if key != lost}, {**SAID, lost: None}):
        (said,) = companions.differences(given, SAID)
        assert said.startswith(f"{lost} is not there, the source has ")


def test_what_was_lost_without_a_change_is_no_difference() -> None:
    """transformers 5 moves what belongs to the rotary embedding; Qwen2.5-VL's kind of it is no stretching."""
    moved = {"rope_parameters": {**SAID["rope_scaling"], "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    rest = {key: value for key, value in SAID.items() if "rope" not in key and "rotary" not in key}
    assert list(companions.differences({**rest, **moved}, SAID)) == []
    sections = {"rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    assert (
        list(companions.differences({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, sections)) == []
    )
    (inside,) = companions.differences({**SAID, "text_config": {"vocab_size": 1}}, SAID)
    assert inside == "text_config.query_pre_attn_scalar is not there, the source has 224"


def test_a_config_that_transformers_saves_again_is_the_same(tmp_path: Path) -> None:
    """Every committed one that this transformers knows: keys are added, rope_theta moves into rope_parameters."""
    code = """if True:
        import sys
        from pathlib import Path
        from transformers import AutoConfig
        for folder in Path(sys.argv[1]).iterdir():
            try:
                AutoConfig.from_pretrained(folder).save_pretrained(folder / "again")
            except ValueError as error:
                assert "does not recognize this architecture" in str(error), error"""
    (script := tmp_path / "again.py").write_text(code)
    for file in (ROOT / "data/architectures").glob("*.json"):
        (folder := tmp_path / "configs" / file.stem).mkdir(parents=True)
        shutil.copyfile(file, folder / "config.json")
    in_quant(script, tmp_path / "configs")
    saved = list((tmp_path / "configs").glob("*/again/config.json"))
    assert len(saved) > 10
    for file in saved:
        source = read_json(file.parents[1] / "config.json")
        assert list(companions.differences(read_json(file), source)) == [], file
    gemma = read_json(tmp_path / "configs/gemma3_270m/again/config.json")
    gemma["rope_parameters"]["sliding_attention"]["rope_theta"] = 1.0
    source = {**read_json(tmp_path / "configs/gemma3_270m/config.json"), "rope_local_base_freq": 10000.0}
    assert list(companions.differences(gemma, source)) == ["rope_local_base_freq is 1.0, the source has 10000.0"]


def test_a_changed_config_is_not_accepted(inspected: Callable[..., str], source: Path, tmp_path: Path) -> None:
    given = artifact(source, tmp_path / "a", "int4", INT4)
    assert inspected(given, "method=rtn", "group_size=64").startswith("0 ")
    edit({"rope_theta": 500000.0})(given)
    said = inspected(given, "method=rtn", "group_size=64")
    assert said.startswith("1 ")
    assert "config.json differs from the source's: rope_theta is 500000.0, the source has 10000.0" in said
