"""What lies beside the weights of somebody's artifact, against the source: its config.json, tokenizer and processor files.

Savers spell both in their own version's way: keys are added, rope_theta moves into rope_parameters. So what both say must
be the same, and a file of JSON is compared by its content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qforge.json_files import read_json
from qforge.models import checkpoint

# Keys that say how a model was saved or trained, not what it computes; of tokens tokenizer.json has the last word
IDLE = {
    "dtype", "torch_dtype", "transformers_version", "quantization_config", "compression_config", "use_cache", "id2label",
    "label2id", "auto_map", "initializer_range", "attention_dropout", "output_router_logits", "router_aux_loss_coef",
    "pretraining_tp", "tokenizer_class", "processor_class", "name_or_path", "backend", "is_local", "local_files_only",
    "extra_special_tokens", "added_tokens_decoder",
}  # fmt: skip
# What a class computes otherwise where its config.json does not say it; savers of a model keep these, and change their place
SAID = (
    "rope_scaling", "partial_rotary_factor", "layer_types", "final_logit_softcapping", "attn_logit_softcapping",
    "query_pre_attn_scalar", "attention_bias", "norm_topk_prob", "scoring_func", "topk_method", "routed_scaling_factor",
    "text_config", "thinker_config",
)  # fmt: skip
UNSTRETCHED = ("default", "mrope")  # kinds of rope_scaling that newer savers spell otherwise
# What may take the place of a file that is not there
INSTEAD = {
    "vocab.json": "tokenizer.json", "merges.txt": "tokenizer.json", "vocab.txt": "tokenizer.json",
    "special_tokens_map.json": "tokenizer_config.json", "added_tokens.json": "tokenizer.json",
    "tokenizer.model": "tokenizer.json", "spiece.model": "tokenizer.json", "preprocessor_config.json": "processor_config.json",
}  # fmt: skip
PEOPLES = (".md", ".txt", "")  # licences and the like, unless a tokenizer is among them
TOKENIZERS = ("merges.txt", "vocab.txt")
NEED = "the weights need the tokenizer and processor that they were made with; copy the source's file"
WHOLE = ("tokenizer.json",)  # of which every word counts


def faults(artifact: Path, source: Path) -> Iterator[str]:
    """What is missing from the artifact, or says something else than the source."""
    artifact_config, source_config = (read_json(folder / "config.json") for folder in (artifact, source))
    if different := list(differences(artifact_config, source_config)):
        yield (
            f"config.json differs from the source's: {'; '.join(different[:3])}: this would be a different model; use the "
            "source's values"
        )
    for name in checkpoint.companions(source):
        if Path(name).suffix in PEOPLES and name not in TOKENIZERS:
            continue
        if not (artifact / name).is_file():
            if not _replaced(name, artifact):
                yield f"{name} is missing: {NEED}"
        elif not _alike(artifact / name, source / name):
            yield f"{name} differs from the source's: {NEED}"


def differences(artifact: dict[str, Any], source: dict[str, Any]) -> Iterator[str]:
    """Values of config.json that both have and that differ, the rotary embedding in either spelling; and those that the
    artifact has lost, where its class would take another."""
    yield from _unlike(_plain(artifact), _plain(source), "")


def _unlike(artifact: dict[str, Any], source: dict[str, Any], where: str) -> Iterator[str]:
    for key in sorted(artifact.keys() & source.keys()):
        own, other, name = artifact[key], source[key], f"{where}{key}"
        if key in IDLE or key.startswith("_") or own is None or other is None or own == other:
            continue
        if isinstance(own, dict) and isinstance(other, dict):
            yield from _unlike(_plain(own), _plain(other), f"{name}.")
        else:
            yield f"{name} is {own!r:.60}, the source has {other!r:.60}"
    for key in SAID:
        if artifact.get(key) is None and (value := source.get(key)) and not _unstretched(value):
            yield f"{where}{key} is not there, the source has {value!r:.60}"


def _unstretched(value: Any) -> bool:
    return isinstance(value, dict) and value.get("rope_type", value.get("type")) in UNSTRETCHED


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """With the bases of the rotary embedding, and what stretches them, as transformers 4 spelled them."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return config
    plain = {key: value for key, value in config.items() if key != "rope_parameters"}
    if kinds := {kind: value for kind, value in rope.items() if isinstance(value, dict)}:  # of layers: Gemma 3
        bases = {kind: value.get("rope_theta") for kind, value in kinds.items()}
        return {
            **plain,
            "rope_theta": bases.get("full_attention"),
            "rope_local_base_freq": bases.get("sliding_attention"),
        }
    moved = ("rope_theta", "partial_rotary_factor")
    scaling = {key: value for key, value in rope.items() if key not in moved}
    stretched = scaling.get("rope_type", "default") != "default"
    plain = {**plain, **{key: rope[key] for key in moved if key in rope}}
    return {**plain, "rope_scaling": scaling if stretched else None}


def _replaced(name: str, artifact: Path) -> bool:
    if name.startswith("chat_template"):
        config = artifact / "tokenizer_config.json"
        inside = config.is_file() and "chat_template" in read_json(config)
        return inside or any(artifact.glob("chat_template.*"))
    return (artifact / INSTEAD.get(name, name)).is_file()


def _alike(file: Path, source: Path) -> bool:
    if file.read_bytes() == source.read_bytes():
        return True
    if file.suffix != ".json":
        return False
    own, other = read_json(file), read_json(source)
    return own == other if file.name in WHOLE else not list(_unlike(own, other, ""))
