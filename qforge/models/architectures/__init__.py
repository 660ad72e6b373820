"""The tensors of a bf16 checkpoint, from its config.json alone: one function per family of architectures.

Names and shapes are those of the published safetensors checkpoints; tests/test_architectures.py has transformers load
and save a small one of each. Left out: DeepSeek-V3's multi-token-prediction layer (model.layers.61), which
transformers and vLLM's main model skip.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from qforge.models.architectures import decoders, moe, multimodal
from qforge.models.architectures.parts import Shapes
from qforge.models.checkpoint import Tensor

FAMILIES: dict[str, Callable[[dict[str, Any]], Shapes]] = {
    "llama": decoders.llama,
    "mistral": decoders.llama,
    "qwen2": decoders.qwen2,
    "qwen3": decoders.qwen3,
    "gemma3_text": decoders.gemma3,
    "phi3": decoders.phi3,
    "qwen3_moe": moe.qwen3_moe,
    "mixtral": moe.mixtral,
    "deepseek_v3": moe.deepseek,
    "kimi_k2": moe.deepseek,
    "gpt_oss": moe.gpt_oss,
    "gemma3": multimodal.gemma3,
    "qwen2_5_vl": multimodal.qwen2_5_vl,
    "qwen3_vl": multimodal.qwen3_vl,
    "qwen3_omni_moe": multimodal.qwen3_omni,
}
# The causal language model that the text core of a multimodal one is; of other types transformers is asked
CORES = {"gemma3": "gemma3_text", "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen3", "qwen3_omni_moe": "qwen3_moe"}
# A prefix of the checkpoint -> transformers' in memory (5.17), where that is another: what it leaves in 16 bits goes by these
MEMORY = {
    "gemma3": {
        "language_model.lm_head": "lm_head", "language_model.model.": "model.language_model.",
        "vision_tower.vision_model.": "model.vision_tower.", "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
    "qwen2_5_vl": {"visual.": "model.visual.", "model.": "model.language_model."},
}  # fmt: skip


def tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that a bf16 checkpoint of this config.json has: what a plan needs before anything is downloaded.

    Raises ValueError for an architecture that is not known, and for a config.json that lacks a number.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"model_type={kind!r} is not known; known architectures: {', '.join(FAMILIES)}")
    try:
        return {name: _tensor(_dtype(name), shape) for name, shape in FAMILIES[kind](config)}
    except KeyError as key:
        raise ValueError(f"config.json: a {kind} model's shapes need {key}, which is missing") from None


def language(config: dict[str, Any]) -> dict[str, Any]:
    """The part of config.json that describes the language model: hidden_size, num_attention_heads and the rest."""
    config = config.get("thinker_config", config)
    config = config.get("text_config", config)
    return {**decoders.GEMMA3, **config} if config.get("model_type") == "gemma3_text" else config


def in_memory(config: dict[str, Any], name: str) -> str:
    """The name of a module in transformers' memory; nothing where it is the checkpoint's."""
    prefixes = MEMORY.get(str(config.get("model_type")), {})
    old = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    return prefixes[old] + name.removeprefix(old) if old else ""


@functools.cache  # a model with 70,000 tensors has a few dozen shapes
def _tensor(dtype: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(dtype, shape)


def _dtype(name: str) -> str:
    return "F32" if name.endswith("e_score_correction_bias") else "BF16"
