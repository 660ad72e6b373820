"""One list of exempted modules for two engines that call Qwen3-Omni's modules by different names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT

from qforge.inspect.omni_list import OLD, misread
from qforge.json_files import read_json
from qforge.methods import omni_list
from qforge.models import architectures, modules

CONFIG = read_json(ROOT / "data/architectures/qwen3_omni_tiny.json")
TREE = modules.from_tensors(architectures.tensors(CONFIG), CONFIG)
PACKED = {m.name for m in TREE if m.linear and m.block != 3}  # a block in bf16, too
EXACT = sorted(m.name for m in TREE if m.name not in PACKED and m.kind != "embedding")
EXACT += [name.replace(".experts.1.", ".experts.0.") for name in EXACT if ".experts.1." in name]


def wrong(quantization: dict[str, Any]) -> dict[str, list[str]]:
    return {engine: names for engine, count, names in misread(quantization, TREE, CONFIG, PACKED) if count}


def read_right(quantization: dict[str, Any]) -> set[str]:
    return {engine for engine, names in wrong(quantization).items() if not names}


@pytest.mark.parametrize("method", ["compressed-tensors", "modelopt"])
def test_the_list_is_completed_for_every_engine(method: str, tmp_path: Path) -> None:
    quantization = {"quant_method": method, "ignore": EXACT}
    assert OLD not in read_right(quantization), "it does not map the names"
    own = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": EXACT}}
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": quantization}))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(own))
    omni_list.write(tmp_path)
    completed = read_json(tmp_path / "config.json")["quantization_config"]
    assert set(completed["ignore"]) > set(EXACT)
    assert read_right(completed) == {"vLLM", "vLLM-Omni", OLD}
    assert set(read_json(tmp_path / "hf_quant_config.json")["quantization"]["exclude_modules"]) > set(EXACT)


@pytest.mark.parametrize("method", ["compressed-tensors", "modelopt"])
def test_a_forgotten_router_and_a_forgotten_talker_are_named(method: str) -> None:
    router, speaks = "thinker.model.layers.0.mlp.gate", "talker.model.layers.0.self_attn.o_proj"
    listed = {"quant_method": method, "ignore": [name for name in EXACT if name not in (router, speaks)]}
    found = wrong(listed)
    assert found["vLLM"] == [router]
    assert found["vLLM-Omni"] == [speaks, router]


def test_other_models_lists_are_left_alone(tmp_path: Path) -> None:
    content = {
        "model_type": "qwen3_moe",
        "quantization_config": {"quant_method": "compressed-tensors", "ignore": ["lm_head"]},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    omni_list.write(tmp_path)
    assert read_json(tmp_path / "config.json") == content
    assert not list(misread(content["quantization_config"], TREE, content, PACKED))
