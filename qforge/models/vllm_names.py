"""The names that a model's matrices have inside vLLM: what it calls them, and which ones it computes as one.

Read in vLLM 0.32, vllm/model_executor/models/: hf_to_vllm_mapper and packed_modules_mapping of the model classes. Those of
the families that have a file here were read by people; vllm_models.json has what vLLM itself says of all its classes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qforge.json_files import read_json
from qforge.models.architectures import FAMILIES, language

# A prefix of the checkpoint -> vLLM's; None: vLLM leaves those tensors out (vllm-omni serves them).
PREFIXES: dict[str, dict[str, str | None]] = {
    "gemma3": {  # gemma3_mm.py:515; the second spelling is what transformers names the modules in memory
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "lm_head.": "language_model.lm_head.",
    },
    "qwen2_5_vl": {  # qwen2_5_vl.py:1313
        "model.language_model.": "language_model.model.",
        "model.visual.": "visual.",
        "lm_head.": "language_model.lm_head.",
        "model.": "language_model.model.",
    },
    "qwen3_vl": {  # qwen3_vl.py:1969
        "model.visual.": "visual.",
        "lm_head.": "language_model.lm_head.",
        "model.language_model.": "language_model.model.",
    },
    "qwen3_omni_moe": {  # qwen3_omni_moe_thinker.py:1630
        "thinker.lm_head.": "language_model.lm_head.",
        "thinker.model.": "language_model.model.",
        "thinker.": "",
        "talker.": None,
        "code2wav.": None,
    },
}
# The same in vLLM-Omni, whose outer class holds thinker, talker and code2wav (0.30, qwen3_omni/qwen3_omni.py:124)
OMNI = {
    "qwen3_omni_moe": {
        "thinker.lm_head.": "thinker.language_model.lm_head.",
        "thinker.model.": "thinker.language_model.model.",
        "talker.model.": "talker.language_model.model.",
    },
}
GPT_OSS = {".self_attn.": ".attn.", ".embed_tokens.": ".embedding."}  # gpt_oss.py:1417

RESHAPED = {"BloomForCausalLM": ("query_key_value",)}  # bloom.py:299, whatever the tensor is (ran: 0.32, weight_shape)

QKV = dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj")
GATE_UP = dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj")
QKV_A = dict.fromkeys(("q_a_proj", "kv_a_proj_with_mqa"), "fused_qkv_a_proj")


def _falcon_h1(name: str, config: dict[str, Any]) -> str:
    """falcon_h1.py:264 and 345: attention without its own name, and numbers of mixers that go on where those of blocks end."""
    name = name.replace(".self_attn.", ".", 1)
    mixer = re.fullmatch(r"model\.layers\.(\d+)\.mamba\.mamba\.(.+)", name)
    return f"model.{config['num_hidden_layers'] + int(mixer[1])}.mixer.{mixer[2]}" if mixer else name


# Classes that ask by another name than a matrix's own whether it is quantized: a list has to name that one, too
ASKED: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "FalconH1ForCausalLM": _falcon_h1,
    "GraniteMoeHybridForCausalLM": lambda name, config: name.replace(".mamba.", ".mixer.", 1),  # granitemoehybrid.py:88
}


def known(config: dict[str, Any]) -> dict[str, dict[str, str]] | None:
    """What vLLM says of the model's class; none where it has no such class."""
    named: list[str] = config.get("architectures") or [""]
    renames: dict[str, dict[str, str]] | None = _classes()["classes"].get(named[0])
    return renames


def reshaped(config: dict[str, Any]) -> tuple[str, ...]:
    """Leaves of the matrices that vLLM's class takes apart while it loads, so that it reads no packed form of them."""
    return RESHAPED.get((config.get("architectures") or [""])[0], ())


def version() -> str:
    """Of the vLLM that was asked."""
    return str(_classes()["version"])


@functools.cache
def _classes() -> dict[str, Any]:
    return read_json(Path(__file__).with_name("vllm_models.json"))


def names(config: dict[str, Any], omni: bool = False) -> Callable[[str], tuple[str | None, str | None]]:
    """A function from a module's name in the checkpoint to (its name in vLLM, the matrix in which vLLM computes it).

    Both are those by which vLLM asks whether they are quantized. The second is the first where nothing is fused. Both are None
    for what vLLM does not load. `omni`: in vLLM-Omni, which loads everything.
    """
    own, asked = mapped(config, omni), ASKED.get((config.get("architectures") or [""])[0])
    renames = {} if config.get("model_type") in FAMILIES else known(config) or {}
    packed = {**_packed(config), **renames.get("fused", {})}

    def of(name: str) -> tuple[str | None, str | None]:
        served = own(name)
        if served is None:
            return None, None
        served = asked(served, config) if asked else served
        layer, experts, _ = served.partition(".experts.")
        if experts:  # all experts of a layer are one module: fused_moe/layer.py
            return served, f"{layer}.experts"
        parent, dot, leaf = served.rpartition(".")
        return served, f"{parent}{dot}{packed.get(leaf, leaf)}"

    return of


def asks_otherwise(config: dict[str, Any]) -> Callable[[str], str]:
    """A function from a name in the checkpoint to the one that vLLM's class asks for, where `mapped` is another; elsewhere to
    nothing."""
    asked, own = ASKED.get((config.get("architectures") or [""])[0]), mapped(config)
    if asked is None:
        return lambda name: ""

    def of(name: str) -> str:
        served = own(name) or ""
        return "" if asked(served, config) == served else asked(served, config)

    return of


def mapped(config: dict[str, Any], omni: bool = False) -> Callable[[str], str | None]:
    """A function from a name in a checkpoint, or in its ignore list, to the one that vLLM makes of it before anything else."""
    kind = str(config.get("model_type"))
    renames = {} if kind in FAMILIES else known(config) or {}
    prefixes: Mapping[str, str | None] = PREFIXES.get(kind, {}) if kind in FAMILIES else renames.get("prefixes", {})
    if omni:
        prefixes = OMNI[kind]
    parts = GPT_OSS if kind == "gpt_oss" else renames.get("substrings", {})

    def of(name: str) -> str | None:
        for old, new in parts.items():
            name = (name + ".").replace(old, new, 1)[:-1]
        return _served(name, prefixes)

    return of


def _packed(config: dict[str, Any]) -> dict[str, str]:
    """llama.py:475 and the others'; deepseek_v2.py:1880 with latent attention, which fuses the first matrices."""
    config = language(config)
    if "kv_lora_rank" not in config:
        return {**QKV, **GATE_UP}
    return {**GATE_UP, **(QKV_A if config.get("q_lora_rank") else {})}


def _served(name: str, prefixes: Mapping[str, str | None]) -> str | None:
    """As vLLM's WeightsMapper does (models/utils.py:_map_name_with_shard), but the first prefix that fits ends it."""
    for old, new in prefixes.items():
        if f"{name}.".startswith(old):
            return None if new is None else (new + f"{name}."[len(old) :])[:-1]
    return name
