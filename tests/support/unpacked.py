"""In the quantizer's environment: what unpacked.py says of each artifact, as JSON. Arguments: ARTIFACT or FAULT:ARTIFACT ..."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from qforge.envs.request import Refused
from qforge.evaluation import unpacked

UP = "model.layers.0.mlp.up_proj"
FAULTS = {  # what a loader may do wrong to one matrix, a little or altogether
    "global_scale": lambda matrix: matrix.weight_global_scale.mul_(0.5),
    "scale": lambda matrix: matrix.weight_scale.fill_(1),
    "two_percent": lambda matrix: matrix.weight_scale.mul_(1.02),
    "class": lambda matrix: matrix.register_forward_pre_hook(lambda module, inputs: module.weight_of_its_class),
    # as BitsAndBytes 0.50 does on a CPU, once it has computed: whoever asks for its state ruins it
    "state": lambda matrix: matrix.register_state_dict_pre_hook(lambda module, *_: _ruin(module)),
    "nan": lambda matrix: matrix.weight_scale.fill_(torch.nan),
}


def _ruin(matrix: Any) -> None:
    with torch.no_grad():
        getattr(matrix, "weight", matrix.weight_scale).mul_(2)


def said(argument: str) -> Any:
    fault, _, artifact = argument.rpartition(":")
    model = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.bfloat16).eval()
    if fault:
        with torch.no_grad():
            FAULTS[fault](model.get_submodule(UP))
    try:
        return unpacked.compare(model, Path(artifact))
    except Refused as refusal:
        return str(refusal)


print(json.dumps({argument: said(argument) for argument in sys.argv[1:]}))
