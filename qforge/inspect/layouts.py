"""What no plan describes: a checkpoint in a layout that is not written down in models/formats.py, or one of GPTQ that has
formats of its own for some modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qforge.models import quantization_config
from qforge.models.checkpoint import Stored
from qforge.models.modules import Module

CHANGED = ("bits", "group_size", "sym")  # by a rule of GPTQ's `dynamic`, for the modules that it names
SORTED = (
    "group",
    "dynamic",
)  # orders by which inputs of a group lie apart; the others decide only what is rounded first
ORDER = "weight_g_idx"  # the group of each input


def incomparable(config: dict[str, Any]) -> str | None:
    """Why a checkpoint that says that it is quantized cannot be compared with a plan; none for all others."""
    quantization = quantization_config.announced(config)
    rules = quantization.get("dynamic")
    own = [rule for rule, says in rules.items() if set(CHANGED) & set(says or ())] if isinstance(rules, dict) else []
    if own:
        what = f"mixed precision ({quantization.get('quant_method')} has a format of its own for {own[0]})"
    elif quantization and quantization_config.detect(config) is None and not quantization_config.has_kv_scales(config):
        algorithm = quantization.get("quant_algo") or quantization.get("packing_format") or quantization.get("format")
        said = f"{quantization.get('quant_method')}{f' ({algorithm})' if algorithm else ''}"
        what = f"quantized by {said}, in a layout that is not described here"
    else:
        return None
    return f"config.json: {what}, so this is not compared; to measure it anyway, leave inspect out of stages"


def inputs_apart(config: dict[str, Any]) -> bool:
    """Whether a checkpoint of compressed-tensors says that the inputs of a group lie apart."""
    said = quantization_config.weights_of(quantization_config.announced(config))
    return any(weights.get("actorder") in SORTED for weights in said)


def without_order(
    tensors: Mapping[str, Stored], config: dict[str, Any], modules: Sequence[Module]
) -> dict[str, Stored]:
    """The tensors without the groups of the inputs, which compressed-tensors' checkpoints have where it says that they lie
    apart. What has another shape stays."""
    if not inputs_apart(config):
        return dict(tensors)
    inputs = {f"{name}.{ORDER}": columns for module in modules for name, _, columns in module.matrices}
    return {
        name: tensor for name, tensor in tensors.items() if tensor.dtype != "I32" or tensor.shape != (inputs.get(name),)
    }
