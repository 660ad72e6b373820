"""Which causal language model of transformers the text part of a multimodal one is: the same parameters, by other names.

Runs where transformers is. Whether it also computes the same is tried on the weights (stages/core.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from qforge.stages.classes import saved, speaker

OWN = {"model_type", "architectures", "transformers_version"}  # what a type says of itself alone
# How the three positions of an image's patch share a rotary embedding; a token of text has one position thrice
POSITIONS = ("mrope_section", "mrope_interleaved", "interleaved")


def core(model: PreTrainedModel) -> dict[str, Any]:
    """What a plan needs of it: `kind`, its model_type, and `splits`, whether its checkpoint has experts one by one; or `why`
    there is none. Empty for a model that is all text."""
    if model.config.get_text_config(decoder=True) is model.config:
        return {}
    try:
        own = config(model)
    except ValueError as error:
        return {"why": str(error)}
    stacked = any(tensor.ndim == 3 and "expert" in name for name, tensor in saved(built(own)).items())
    return {"kind": own.model_type, "splits": not stacked}


def config(model: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of the causal model whose parameters are those of `model`'s text part.

    Raises ValueError where transformers has none.
    """
    text = model.config.get_text_config(decoder=True)
    wanted = _shapes(speaker(model).get_decoder())
    tried = []
    for own in _candidates(text):
        if _shapes(built(own).get_decoder()) == wanted:
            return own
        tried.append(own.model_type)
    among = f" ({', '.join(tried)} have other parameters)" if tried else ""
    raise ValueError(f"transformers has no causal language model that is its text part, {text.model_type}{among}")


def unsaid(model: PreTrainedModel, own: PreTrainedConfig) -> list[str]:
    """The switches of the causal model's type that the text part's configuration does not have."""
    text = model.config.get_text_config(decoder=True).to_dict()
    return sorted(key for key, value in own.to_dict().items() if isinstance(value, bool) and key not in text)


def built(own: PreTrainedConfig) -> PreTrainedModel:
    """The class without its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(own, dtype=torch.bfloat16)
    return model


def _candidates(text: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """The text part's own type, where it has a causal class; else those whose names are made of the beginnings of its
    words, the longest first: qwen3_vl_moe_text may be a qwen3_moe."""
    if text.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        yield deepcopy(text)
        return
    words = text.model_type.split("_")
    alike = [
        kind
        for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if all(any(word.startswith(part) for word in words) for part in kind.split("_"))
    ]
    for kind in sorted(alike, key=lambda kind: (-len(kind), kind)):
        yield _as(kind, text)


def _as(kind: str, text: PreTrainedConfig) -> PreTrainedConfig:
    """The text part's numbers as those of another type, as far as that has them."""
    empty = AutoConfig.for_model(kind)
    aliases = {own: alias for alias, own in empty.attribute_map.items()}  # num_experts, num_local_experts
    values = {}
    for key in empty.to_dict().keys() - OWN:
        if (name := next((n for n in (key, aliases.get(key)) if n and hasattr(text, n)), None)) is not None:
            values[key] = getattr(text, name)
    rope = {key: value for key, value in (values.get("rope_parameters") or {}).items() if key not in POSITIONS}
    if rope:
        rope["rope_type"] = "default" if rope.get("rope_type") == "mrope" else rope.get("rope_type", "default")
        values["rope_parameters"] = {key: value for key, value in rope.items() if key != "type"}
    return AutoConfig.for_model(kind, **values)


def _shapes(decoder: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()}
