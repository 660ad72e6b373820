"""Mixtures of experts, from transformers' modeling_qwen3_moe, _mixtral, _deepseek_v3 and _gpt_oss."""

from __future__ import annotations

from qforge.models.architectures.parts import (
    Config,
    Shapes,
    attention,
    block,
    decoder,
    experts,
    gated,
    head,
    linear,
    norm,
)


def qwen3_moe(config: Config) -> Shapes:
    yield from decoder(config, "model.", qwen3_moe_layer)
    yield from head(config)


def qwen3_moe_layer(config: Config, at: str, number: int) -> Shapes:
    hidden, count = config["hidden_size"], config["num_experts"]
    dense = number in config.get("mlp_only_layers", ()) or (number + 1) % config.get("decoder_sparse_step", 1)
    if dense:
        mlp = gated(f"{at}mlp.", hidden, config["intermediate_size"])
    else:
        mlp = experts(f"{at}mlp.", count, hidden, config["moe_intermediate_size"])
    biases = "qkvo" if config.get("attention_bias") else ""
    return block(config, at, mlp, attention(config, at, biases=biases, norms=True))


def mixtral(config: Config) -> Shapes:
    yield from decoder(config, "model.", _mixtral_layer)
    yield from head(config)


def _mixtral_layer(config: Config, at: str, number: int) -> Shapes:
    return block(config, at, _mixtral_experts(config, f"{at}block_sparse_moe."), attention(config, at))


def _mixtral_experts(config: Config, at: str) -> Shapes:
    """w1 is the gate, w3 up, w2 down."""
    hidden, width = config["hidden_size"], config["intermediate_size"]
    yield f"{at}gate.weight", (config["num_local_experts"], hidden)
    for number in range(config["num_local_experts"]):
        yield f"{at}experts.{number}.w1.weight", (width, hidden)
        yield f"{at}experts.{number}.w2.weight", (hidden, width)
        yield f"{at}experts.{number}.w3.weight", (width, hidden)


def deepseek(config: Config) -> Shapes:
    yield from decoder(config, "model.", _deepseek_layer)
    yield from head(config)


def _deepseek_layer(config: Config, at: str, number: int) -> Shapes:
    hidden = config["hidden_size"]
    if number < config["first_k_dense_replace"]:
        mlp = gated(f"{at}mlp.", hidden, config["intermediate_size"])
    else:
        mlp = _deepseek_experts(config, f"{at}mlp.")
    return block(config, at, mlp, _latent_attention(config, f"{at}self_attn."))


def _deepseek_experts(config: Config, at: str) -> Shapes:
    hidden, count, width = config["hidden_size"], config["n_routed_experts"], config["moe_intermediate_size"]
    yield f"{at}gate.e_score_correction_bias", (count,)
    yield from experts(at, count, hidden, width)
    yield from gated(f"{at}shared_experts.", hidden, config["n_shared_experts"] * width)


def _latent_attention(config: Config, at: str) -> Shapes:
    """MLA: q through a latent of q_lora_rank (or directly), k and v through one of kv_lora_rank."""
    hidden, heads, bias = config["hidden_size"], config["num_attention_heads"], config.get("attention_bias", False)
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    if config["q_lora_rank"] is None:
        yield from linear(f"{at}q_proj", heads * (nope + rope), hidden)
    else:
        yield from linear(f"{at}q_a_proj", config["q_lora_rank"], hidden, bias)
        yield from norm(f"{at}q_a_layernorm", config["q_lora_rank"])
        yield from linear(f"{at}q_b_proj", heads * (nope + rope), config["q_lora_rank"])
    yield from linear(f"{at}kv_a_proj_with_mqa", config["kv_lora_rank"] + rope, hidden, bias)
    yield from norm(f"{at}kv_a_layernorm", config["kv_lora_rank"])
    yield from linear(f"{at}kv_b_proj", heads * (nope + value), config["kv_lora_rank"])
    yield from linear(f"{at}o_proj", hidden, heads * value, bias)


def gpt_oss(config: Config) -> Shapes:
    """The bf16 form; OpenAI publishes the experts packed in MXFP4 (*_blocks and *_scales)."""
    yield from decoder(config, "model.", _gpt_oss_layer)
    yield from head(config)


def _gpt_oss_layer(config: Config, at: str, number: int) -> Shapes:
    yield f"{at}self_attn.sinks", (config["num_attention_heads"],)
    biases = "qkvo" if config.get("attention_bias", True) else ""
    yield from block(config, at, _gpt_oss_experts(config, f"{at}mlp."), attention(config, at, biases=biases))


def _gpt_oss_experts(config: Config, at: str) -> Shapes:
    """All experts in one tensor [experts, in_features, out_features]; gate and up are its even and odd columns."""
    hidden, width, count = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    yield from linear(f"{at}router", count, hidden, bias=True)
    yield f"{at}experts.gate_up_proj", (count, hidden, 2 * width)
    yield f"{at}experts.gate_up_proj_bias", (count, 2 * width)
    yield f"{at}experts.down_proj", (count, width, hidden)
    yield f"{at}experts.down_proj_bias", (count, hidden)
