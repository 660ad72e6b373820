"""No score of weights that transformers unpacks otherwise than their format says; the formats that it reads rightly pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import DENSE, MOE, checkpoint, in_quant, quantized
from support.command import ROOT

LEAVES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
OF_DENSE, OF_MIXTURE = ("gptq", "awq", "fp8", "w8a8", "nvfp4_llmc"), ("rtn", "nvfp4_llmc")
FAULTS = {
    "global_scale": "nvfp4_llmc",
    "scale": "gptq",
    "two_percent": "fp8",
    "nan": "awq",
    "class": "w8a8",
    "state": "fp8",
}


@pytest.fixture(scope="module")
def said(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is said of each artifact, by fault, model and method."""
    arguments: dict[str, str] = {}
    free = ("exempt=none", "calib.expert_floor=0")
    for name, config, methods in (("dense", DENSE, OF_DENSE), ("mixture", MOE, OF_MIXTURE)):
        folder = tmp_path_factory.mktemp(name)
        source = checkpoint(folder / "source", config, model, files=1)
        made = quantized("quant", source, folder, *methods, overrides=free)
        arguments |= {f"{name} {method}": str(artifact) for method, artifact in made.items()}
        arguments |= {f"{name} bf16": str(source)}
    arguments |= {fault: f"{fault}:{arguments[f'dense {method}']}" for fault, method in FAULTS.items()}
    answers = json.loads(in_quant(ROOT / "tests/support/unpacked.py", *arguments.values()).stdout.splitlines()[-1])
    return {what: answers[argument] for what, argument in arguments.items()}


@pytest.mark.parametrize("what", [*(f"dense {m}" for m in OF_DENSE), "mixture rtn"])
def test_what_is_unpacked_rightly_passes(said: dict[str, Any], what: str) -> None:
    assert isinstance(said[what], dict), said[what]
    assert {name.rpartition(".")[2] for name in said[what]} == LEAVES, "one matrix of each kind"
    assert max(said[what].values()) < 0.002, "bf16 has eight bits"


def test_a_layer_that_its_state_dict_ruins_is_left_as_it_is(said: dict[str, Any]) -> None:
    assert isinstance(said["state"], dict), said["state"]


def test_columns_that_hold_zeros_alone_are_equal() -> None:
    """As scales leave them that are made for weights far out."""
    program = (
        "import torch; from qforge.evaluation.unpacked import _distance as off; nothing = torch.zeros(2, 2); "
        "print(off(nothing, nothing), off(nothing + 1, nothing), off(nothing + 1, nothing + 2))"
    )
    assert in_quant("-c", program).stdout.split() == ["0.0", "inf", "0.5"]


def test_a_bf16_model_has_nothing_to_compare(said: dict[str, Any]) -> None:
    assert said["dense bf16"] == said["mixture bf16"] == {}


@pytest.mark.parametrize(
    ("fault", "difference"), [("global_scale", 1.0), ("two_percent", 0.02), ("scale", None), ("nan", None)]
)
def test_one_matrix_with_a_wrong_scale_is_caught(said: dict[str, Any], fault: str, difference: float | None) -> None:
    message = str(said[fault])
    assert "unpacks this checkpoint wrongly: model.layers.0.mlp.up_proj is off by" in message
    assert "use a runtime of vLLM (leave runtime out), or method=bf16" in message
    measured = float(message.partition("off by ")[2].split()[0])
    assert difference is None or measured == pytest.approx(difference, rel=0.1)


def test_a_class_that_looks_at_a_packed_weight_is_refused(said: dict[str, Any]) -> None:
    assert "unpacks this checkpoint wrongly: its class fails at what is packed ('" in said["class"]
    assert (
        "has no attribute 'weight_of_its_class'), so every score would be wrong; use a runtime of vLLM" in said["class"]
    )


def test_the_global_scale_that_transformers_drops_of_experts_is_caught(said: dict[str, Any]) -> None:
    message = said["mixture nvfp4_llmc"]
    assert "experts.0.gate_proj is off by" in message, (
        "transformers 5.17; where it reads them, the plan need not refuse them"
    )
    assert float(message.partition("off by ")[2].split()[0]) > 100
