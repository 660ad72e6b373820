"""A model without its weights: its tensors' names and shapes and its config, from wherever they can be had soonest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qforge import json_files
from qforge.config.model import Model
from qforge.config.places import given_path
from qforge.models import (
    architectures,
    checkpoint,
    completeness,
    hub,
    modules,
    quantization_config,
    quantized_source,
    repository,
    structure,
    turning,
)
from qforge.models.checkpoint import Stored, Tensor
from qforge.models.quantized_source import Packing
from qforge.models.structure import Structure

NEEDED = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
HEADS = "num_attention_heads"  # a model without attention has none, if transformers says so
SIZES = (
    "intermediate_size",
    "num_key_value_heads",
    "head_dim",
    "moe_intermediate_size",
    "num_experts",
)  # of the families here
SHOWN = 3  # names in a note


@dataclass(frozen=True)
class Source:
    """The checkpoint that will be quantized, in its bf16 form, as far as a plan needs it."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    origin: str  # where this was read, for people
    notes: tuple[str, ...] = ()  # what is odd about it, and no reason to refuse it
    structure: Structure | None = None  # what transformers says of it, where names alone do not say it
    packing: Packing | None = None  # how it is published, where that is quantized
    stored: Mapping[str, Tensor] = field(default_factory=dict)  # of one that is published quantized, its own tensors

    @property
    def text(self) -> dict[str, Any]:
        """The numbers of the language model: hidden_size, num_attention_heads and the rest."""
        text = {**architectures.language(self.config), **(self.structure.config if self.structure else {})}
        each = {key: value for key in SIZES if isinstance(value := text.get(key), list)}  # Gemma 3n: one for each layer
        return text | {key: max(value) for key, value in each.items() if value and all(type(n) is int for n in value)}


def read(model: Model, folder: Path | None) -> Source:
    """The model in `folder`; while it is not on this machine, by its architecture file or by what the hub says of it.

    Raises ValueError for what cannot be unpacked to bf16, or would run code of its own.
    """
    found = _found(model, folder)
    config, built = found.config, structure.read(Path(model.structure)) if model.structure else None
    _refuse_code(model, config, built)
    _refuse_values(model, config)
    shapes = found.tensors if found.tensors is not None else _shapes(config, built)
    needed = [key for key in NEEDED if key != HEADS or not (built and built.built)]
    notes = (*found.notes, *_notes(shapes, config))
    if config.get("tie_word_embeddings"):  # some savers write the shared matrix twice
        shapes = {name: tensor for name, tensor in shapes.items() if name != "lm_head.weight"}
    source = Source(shapes, config, found.origin, notes, built, found.packing, found.stored)
    if missing := [key for key in needed if key not in source.text]:
        raise ValueError(f"model={model.name}: its config.json lacks {', '.join(missing)}; use a complete one")
    if found.tensors is not None:  # else they are what config.json says
        completeness.refuse(model.name, found.tensors, config, source.text)
    return source


def _refuse_values(model: Model, config: dict[str, Any]) -> None:
    """What decides how large a model is must be whole numbers, and its type a name."""
    if not isinstance(config.get("model_type"), str) and "auto_map" not in config:
        raise ValueError(
            f"model={model.name}: its config.json lacks model_type, by which loaders find its class; add it"
        )
    text, sizes = architectures.language(config), SIZES if _known(config) else ()
    for key in (*NEEDED, *sizes):
        value = text.get(key)
        if key in text and not (key in sizes and value is None) and (type(value) is not int or value < 1):
            raise ValueError(
                f"model={model.name}: {key} in its config.json is {value!r:.40}; a whole number above 0 belongs there"
            )


def _shapes(config: dict[str, Any], built: Structure | None) -> dict[str, Tensor]:
    """The tensors that a model of this config.json has."""
    return built.tensors if built and built.tensors is not None else architectures.tensors(config)


def _notes(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> Iterator[str]:
    """Tensors without a place in the model, and a head of its own that config.json denies: what is compared is its beginning,
    and only where the weights are here."""
    if more := completeness.strangers(tensors, config):
        shown = ", ".join(more[:SHOWN]) + (f" and {len(more) - SHOWN} more" if len(more) > SHOWN else "")
        yield f"a {config['model_type']} by this config.json has no place for {shown}: a loader may skip it or fail at it"
    head, embedding = tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")
    if config.get("tie_word_embeddings") and isinstance(head, Stored) and isinstance(embedding, Stored):
        if checkpoint.begins_like(head, embedding):
            return
        yield (
            "lm_head.weight is not the embedding, though config.json says tie_word_embeddings=true: it is left out, as vLLM "
            "and transformers do; if the model was trained with a head of its own, set tie_word_embeddings=false there"
        )


def unclear(
    model: Model, folder: Path | None, loaded: bool = False
) -> tuple[dict[str, Any], dict[str, list[int]] | None] | None:
    """What transformers has to be asked: config.json and the tensors' shapes, if those are known.

    None where a model is known by its type, or is all text and known by the names of its matrices. `loaded`: transformers is
    to load it, so names are not enough.
    """
    if folder is not None and _known(json_files.read_json(folder / "config.json")):
        return None  # without a look at its tensors
    found = _found(model, folder)
    tensors, config = found.tensors, found.config
    if _known(config):
        return None
    if tensors is None:
        return config, None
    text = architectures.language(config)
    strange = "auto_map" in config or text is not config or any(key not in text for key in NEEDED)
    if not strange and not loaded and not any(m.kind == "unknown" for m in modules.from_tensors(tensors, config)):
        return None
    return config, {name: list(tensor.shape) for name, tensor in tensors.items()}


def _known(config: Mapping[str, Any]) -> bool:
    """Whether the model's type has a file here."""
    return config.get("model_type") in architectures.FAMILIES


@dataclass(frozen=True)
class _Found:
    """What was read of a model, in its bf16 form. `tensors`: none where there is a config.json alone."""

    tensors: dict[str, Tensor] | None
    config: dict[str, Any]
    origin: str
    packing: Packing | None = None
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _found(model: Model, folder: Path | None) -> _Found:
    """Raises ValueError for what is published in a format that is not unpacked here."""
    if folder is not None:
        config, beside = quantization_config.read(folder), [file.name for file in folder.iterdir()]
        if model.trust_remote_code:
            checkpoint.check_own_code(folder)
        if not any(map(repository.weights, beside)):
            return _plain(model, None, config, f"{folder}/config.json alone (there are no weights)")
        return _plain(model, checkpoint.headers(folder), config, str(folder), beside)
    if model.architecture is not None:
        config = json_files.read_json(given_path(model.architecture))
        if model.gguf and model.gguf.turned:
            config = turning.planned(model.name, config)
        return _plain(model, None, config, f"{model.architecture} (the model itself is not fetched yet)")
    if model.hub is not None:
        origin = f"the headers of {model.hub} on the hub (its weights are not fetched yet)"
        return _plain(model, *hub.read(model), origin, hub.names(model))
    raise ValueError(
        f"model={model.name}: no config.json to plan from; give model.path=FOLDER, or for a model that is "
        "fetched later model.architecture=CONFIG_JSON"
    )


def _plain(
    model: Model, tensors: Mapping[str, Tensor] | None, config: dict[str, Any], origin: str, beside: Sequence[str] = ()
) -> _Found:
    """What was read, unpacked."""
    plain = quantization_config.without(config)
    try:
        if tensors is None:
            said = quantized_source.announced(config)
            note = f"its config.json says that it is published quantized ({said}): what is planned is its bf16 form"
            return _Found(None, plain, origin, notes=(note,) if said else ())
        packing = quantized_source.recognize(tensors, config, beside)
    except ValueError as refusal:
        raise ValueError(f"model={model.name}: {origin}: {refusal}") from None
    if packing is None:
        return _Found(dict(tensors), plain, origin)
    return _Found(packing.plain(tensors), plain, origin, packing, tensors)


def _refuse_code(model: Model, config: Mapping[str, Any], built: Structure | None) -> None:
    own_code = config.get("auto_map")
    known = _known(config) or (built is not None and built.built)
    if own_code and not known and not model.trust_remote_code:
        classes = ", ".join(sorted(map(str, own_code.values())))
        raise ValueError(
            f"model={model.name}: its config.json names Python code, which runs when the model is loaded: "
            f"{classes}; read it, and if you trust it set model.trust_remote_code=true"
        )
