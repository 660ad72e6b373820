"""The tensors of a bf16 checkpoint, from its config.json alone: one function per family of architectures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qforge.checkpoint import Tensor

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "qwen3_moe")


def tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that a bf16 checkpoint of this config.json has: what a plan needs before anything is downloaded."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise ValueError(f"model_type={kind!r} is not known; known architectures: {', '.join(ARCHITECTURES)}")
    return dict(_tensors(config))


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    q, kv = heads * head, config.get("num_key_value_heads", heads) * head
    kind = config["model_type"]
    biased = ("q_proj", "k_proj", "v_proj") if kind == "qwen2" or config.get("attention_bias") else ()
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind == "gemma3_text":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]

    def tensor(name: str, *shape: int) -> tuple[str, Tensor]:
        return name, Tensor("BF16", shape)

    yield tensor("model.embed_tokens.weight", config["vocab_size"], hidden)
    for block in range(config["num_hidden_layers"]):
        at = f"model.layers.{block}."
        for leaf, out in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
            yield tensor(f"{at}self_attn.{leaf}.weight", out, hidden)
            if leaf in biased:
                yield tensor(f"{at}self_attn.{leaf}.bias", out)
        yield tensor(f"{at}self_attn.o_proj.weight", hidden, q)
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            yield tensor(f"{at}self_attn.q_norm.weight", head)
            yield tensor(f"{at}self_attn.k_norm.weight", head)
        for norm in norms:
            yield tensor(f"{at}{norm}.weight", hidden)
        if kind == "qwen3_moe":
            yield tensor(f"{at}mlp.gate.weight", config["num_experts"], hidden)
            mlps = [(f"{at}mlp.experts.{e}.", config["moe_intermediate_size"]) for e in range(config["num_experts"])]
        else:
            mlps = [(f"{at}mlp.", config["intermediate_size"])]
        for mlp, width in mlps:
            yield tensor(f"{mlp}gate_proj.weight", width, hidden)
            yield tensor(f"{mlp}up_proj.weight", width, hidden)
            yield tensor(f"{mlp}down_proj.weight", hidden, width)
    yield tensor("model.norm.weight", hidden)
    if not config.get("tie_word_embeddings", kind == "gemma3_text"):
        yield tensor("lm_head.weight", config["vocab_size"], hidden)
