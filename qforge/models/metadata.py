"""A model without its weights: its tensors' names and shapes and its config, from wherever they can be had soonest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qforge import json_files
from qforge.config.job import Model
from qforge.config.places import given_path
from qforge.models import (
    architectures,
    checkpoint,
    completeness,
    hub,
    modules,
    quantized_source,
    repository,
    structure,
)
from qforge.models.checkpoint import Stored, Tensor
from qforge.models.structure import Structure

NEEDED = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
HEADS = "num_attention_heads"  # a model without attention has none, if transformers says so


@dataclass(frozen=True)
class Source:
    """The bf16 checkpoint that will be quantized, as far as a plan needs it."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    origin: str  # where this was read, for people
    notes: tuple[str, ...] = ()  # what is odd about it, and no reason to refuse it
    structure: Structure | None = None  # what transformers says of it, where names alone do not say it

    @property
    def text(self) -> dict[str, Any]:
        """The numbers of the language model: hidden_size, num_attention_heads and the rest."""
        return {**architectures.language(self.config), **(self.structure.config if self.structure else {})}


def read(model: Model, folder: Path | None) -> Source:
    """The model in `folder`; while it is not on this machine, by its architecture file or by what the hub says of it.

    Raises ValueError for what is no bf16 checkpoint, or would run code of its own.
    """
    tensors, config, origin = _found(model, folder)
    built = structure.read(Path(model.structure)) if model.structure else None
    _refuse(model, config, origin, built)
    shapes = tensors if tensors is not None else _shapes(config, built)
    needed = [key for key in NEEDED if key != HEADS or not (built and built.built)]
    if why := quantized_source.evidence(shapes, folder):
        raise ValueError(
            f"model={model.name}: {origin}: this checkpoint is quantized already ({why}), though its config.json does not say "
            "so; give the bf16 original as the model and this one as artifact=PATH"
        )
    notes = tuple(_notes(shapes, config))
    if config.get("tie_word_embeddings"):  # some savers write the shared matrix twice
        shapes = {name: tensor for name, tensor in shapes.items() if name != "lm_head.weight"}
    source = Source(shapes, config, origin, notes, built)
    if missing := [key for key in needed if key not in source.text]:
        raise ValueError(f"model={model.name}: its config.json lacks {', '.join(missing)}; use a complete one")
    if tensors is not None:  # else they are what config.json says
        completeness.refuse(model.name, tensors, config, source.text)
    return source


def _shapes(config: dict[str, Any], built: Structure | None) -> dict[str, Tensor]:
    """The tensors that a model of this config.json has."""
    return built.tensors if built and built.tensors is not None else architectures.tensors(config)


def _notes(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> Iterator[str]:
    """A head of its own that config.json denies: what is compared is its beginning, and only where the weights are here."""
    head, embedding = tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")
    if config.get("tie_word_embeddings") and isinstance(head, Stored) and isinstance(embedding, Stored):
        if checkpoint.begins_like(head, embedding):
            return
        yield (
            "lm_head.weight is not the embedding, though config.json says tie_word_embeddings=true: it is left out, as vLLM "
            "and transformers do; if the model was trained with a head of its own, set tie_word_embeddings=false there"
        )


def unclear(model: Model, folder: Path | None) -> tuple[dict[str, Any], dict[str, list[int]] | None] | None:
    """What transformers has to be asked: config.json and the tensors' shapes, if those are known.

    None where a model is known by its type, or is all text and known by the names of its matrices.
    """
    if folder is not None and _known(json_files.read_json(folder / "config.json")):
        return None  # without a look at its tensors
    tensors, config, _ = _found(model, folder)
    if _known(config) or "quantization_config" in config:
        return None
    if tensors is None:
        return config, None
    text = architectures.language(config)
    strange = "auto_map" in config or text is not config or any(key not in text for key in NEEDED)
    if not strange and not any(m.kind == "unknown" for m in modules.from_tensors(tensors, config)):
        return None
    return config, {name: list(tensor.shape) for name, tensor in tensors.items()}


def _known(config: Mapping[str, Any]) -> bool:
    """Whether the model's type has a file here."""
    return config.get("model_type") in architectures.FAMILIES


def _found(model: Model, folder: Path | None) -> tuple[dict[str, Tensor] | None, dict[str, Any], str]:
    """Tensors (none: there is a config.json alone), config.json, and where they were read."""
    if folder is not None:
        config = json_files.read_json(folder / "config.json")
        if model.trust_remote_code:
            checkpoint.check_own_code(folder)
        if not any(repository.weights(file.name) for file in folder.iterdir()):
            return None, config, f"{folder}/config.json alone (there are no weights)"
        return dict(checkpoint.headers(folder)), config, str(folder)
    if model.architecture is not None:
        config = json_files.read_json(given_path(model.architecture))
        return None, config, f"{model.architecture} (the model itself is not fetched yet)"
    if model.hub is not None:
        tensors, config = hub.read(model)
        return dict(tensors), config, f"the headers of {model.hub} on the hub (its weights are not fetched yet)"
    raise ValueError(
        f"model={model.name}: no config.json to plan from; give model.path=FOLDER, or for a model that is "
        "fetched later model.architecture=CONFIG_JSON"
    )


def _refuse(model: Model, config: Mapping[str, Any], origin: str, built: Structure | None) -> None:
    if "quantization_config" in config:
        raise ValueError(
            f"model={model.name}: {origin}: this checkpoint is quantized already; give the bf16 original as the model and "
            "this one as artifact=PATH"
        )
    own_code = config.get("auto_map")
    known = _known(config) or (built is not None and built.built)
    if own_code and not known and not model.trust_remote_code:
        classes = ", ".join(sorted(map(str, own_code.values())))
        raise ValueError(
            f"model={model.name}: its config.json names Python code, which runs when the model is loaded: "
            f"{classes}; read it, and if you trust it set model.trust_remote_code=true"
        )
