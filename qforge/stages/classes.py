"""A model's class, built without its weights, on torch's meta device. Runs where transformers is."""

from __future__ import annotations

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from qforge.models.auto_class import automatic


def build(where: str, trusted: bool, revision: str | None) -> PreTrainedModel:
    """The model's class without its weights. Raises ValueError for a type that transformers does not know."""
    config = AutoConfig.from_pretrained(where, trust_remote_code=trusted, revision=revision)
    with torch.device("meta"):
        if named := of_its_own(config):
            return named._from_config(config, dtype=torch.bfloat16)
        return automatic(config).from_config(config, dtype=torch.bfloat16, trust_remote_code=trusted)


def of_its_own(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that config.json names, where transformers has it."""
    named: type[PreTrainedModel] | None = getattr(transformers, (config.architectures or [""])[0], None)
    return named if named is not None and named.config_class is type(config) else None


def saved(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors of the checkpoint that transformers would save, by the names that they have there."""
    state = model.state_dict()
    ties = getattr(model.config.get_text_config(), "tie_word_embeddings", False)  # Inkling's says nothing of it
    tied = model.all_tied_weights_keys if ties else {}
    tensors: dict[str, torch.Tensor] = revert_weight_conversion(
        model, {n: t for n, t in state.items() if n not in tied}
    )
    return tensors


def speaker(model: PreTrainedModel) -> nn.Module:
    """The part that has a forward pass to logits: all of it, but where several stages make one model."""
    parts = (m for m in model.modules() if isinstance(m, PreTrainedModel) and m.get_output_embeddings() is not None)
    return next(m for m in parts if type(m).forward is not nn.Module.forward)
