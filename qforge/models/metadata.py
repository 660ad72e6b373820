"""A model without its weights: its tensors' names and shapes and its config, from wherever they can be had soonest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qforge import json_files
from qforge.config.job import Model, repository_path
from qforge.models import architectures, checkpoint, completeness, hub, quantized_source, repository
from qforge.models.checkpoint import Stored, Tensor

NEEDED = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")


@dataclass(frozen=True)
class Source:
    """The bf16 checkpoint that will be quantized, as far as a plan needs it."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    origin: str  # where this was read, for people
    notes: tuple[str, ...] = ()  # what is odd about it, and no reason to refuse it


def read(model: Model, folder: Path | None) -> Source:
    """The model in `folder`; while it is not on this machine, by its architecture file or by what the hub says of it.

    Raises ValueError for what is no bf16 checkpoint, or would run code of its own.
    """
    if folder is not None:
        config = json_files.read_json(folder / "config.json")
        tensors, origin = _local(folder, config)
        if model.trust_remote_code:
            checkpoint.check_own_code(folder)
    elif model.architecture is not None:
        config = json_files.read_json(repository_path(model.architecture))
        tensors, origin = architectures.tensors(config), f"{model.architecture} (the model itself is not fetched yet)"
    elif model.hub is not None:
        tensors, config = hub.read(model)
        origin = f"the headers of {model.hub} on the hub (its weights are not fetched yet)"
    else:
        raise ValueError(
            f"model={model.name}: no config.json to plan from; give model.path=FOLDER, or for a model that is "
            "fetched later model.architecture=CONFIG_JSON"
        )
    _refuse(model, config, origin)
    if why := quantized_source.evidence(tensors, folder):
        raise ValueError(
            f"model={model.name}: {origin}: this checkpoint is quantized already ({why}), though its config.json does not say "
            "so; give the bf16 original as the model and this one as artifact=PATH"
        )
    if missing := [key for key in NEEDED if key not in architectures.language(config)]:
        raise ValueError(f"model={model.name}: its config.json lacks {', '.join(missing)}; use a complete one")
    if folder is not None or model.architecture is None:  # else the tensors are what config.json says
        completeness.refuse(model.name, tensors, config)
    notes = tuple(_notes(tensors, config))
    # the quantizers load in bf16, whatever the file holds
    tensors = {n: Tensor("BF16", t.shape) if t.dtype in ("F16", "F32") else t for n, t in tensors.items()}
    if config.get("tie_word_embeddings"):  # some savers write the shared matrix twice
        tensors.pop("lm_head.weight", None)
    return Source(tensors, config, origin, notes)


def _notes(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> Iterator[str]:
    """A head of its own that config.json denies: what is compared is its beginning, and only where the weights are here."""
    head, embedding = tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")
    if config.get("tie_word_embeddings") and isinstance(head, Stored) and isinstance(embedding, Stored):
        if checkpoint.begins_like(head, embedding):
            return
        yield (
            "lm_head.weight is not the embedding, though config.json says tie_word_embeddings=true: it is left out, as vLLM "
            "and transformers do; if the model was trained with a head of its own, say tie_word_embeddings=false there"
        )


def _local(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Headers, or, where the weights are not there (yet), what the config alone says."""
    if not any(repository.weights(file.name) for file in folder.iterdir()):
        return architectures.tensors(config), f"{folder}/config.json alone (there are no weights)"
    return dict(checkpoint.headers(folder)), str(folder)


def _refuse(model: Model, config: dict[str, Any], origin: str) -> None:
    if "quantization_config" in config:
        raise ValueError(
            f"model={model.name}: {origin}: this checkpoint is quantized already; give the bf16 original as the model and "
            "this one as artifact=PATH"
        )
    own_code = config.get("auto_map")
    if own_code and config.get("model_type") not in architectures.FAMILIES and not model.trust_remote_code:
        classes = ", ".join(sorted(map(str, own_code.values())))
        raise ValueError(
            f"model={model.name}: its config.json names Python code, which runs when the model is loaded: "
            f"{classes}; read it, and if you trust it set model.trust_remote_code=true"
        )
