"""Dense decoders, from transformers' modeling_llama, _qwen2, _qwen3, _gemma3 and _phi3."""

from __future__ import annotations

from qforge.models.architectures.parts import (
    Config,
    Shapes,
    attention,
    block,
    decoder,
    gated,
    head,
    linear,
    norm,
    widths,
)

# What Gemma3TextConfig adds where a published config.json leaves it out.
GEMMA3 = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
}


def llama(config: Config) -> Shapes:
    yield from decoder(config, "model.", llama_layer)
    yield from head(config)


def llama_layer(config: Config, at: str, number: int) -> Shapes:
    mlp = gated(f"{at}mlp.", config["hidden_size"], config["intermediate_size"], config.get("mlp_bias", False))
    return block(config, at, mlp, attention(config, at, biases=_biases(config)))


def qwen2(config: Config) -> Shapes:
    yield from decoder(config, "model.", qwen2_layer)
    yield from head(config)


def qwen2_layer(config: Config, at: str, number: int) -> Shapes:
    mlp = gated(f"{at}mlp.", config["hidden_size"], config["intermediate_size"])
    return block(config, at, mlp, attention(config, at, biases="qkv"))


def qwen3(config: Config) -> Shapes:
    yield from decoder(config, "model.", qwen3_layer)
    yield from head(config)


def qwen3_layer(config: Config, at: str, number: int) -> Shapes:
    mlp = gated(f"{at}mlp.", config["hidden_size"], config["intermediate_size"])
    return block(config, at, mlp, attention(config, at, biases=_biases(config), norms=True))


def gemma3(config: Config) -> Shapes:
    config = {**GEMMA3, **config}
    yield from decoder(config, "model.", gemma3_layer)
    yield from head(config)


def gemma3_layer(config: Config, at: str, number: int) -> Shapes:
    hidden = config["hidden_size"]
    mlp = gated(f"{at}mlp.", hidden, config["intermediate_size"])
    yield from block(config, at, mlp, attention(config, at, biases=_biases(config), norms=True))
    yield from norm(f"{at}pre_feedforward_layernorm", hidden)
    yield from norm(f"{at}post_feedforward_layernorm", hidden)


def phi3(config: Config) -> Shapes:
    yield from decoder(config, "model.", _phi3_layer)
    yield from head(config)


def _phi3_layer(config: Config, at: str, number: int) -> Shapes:
    """q, k, v are one matrix in the checkpoint, and so are gate and up."""
    hidden, width, (q, kv, _) = config["hidden_size"], config["intermediate_size"], widths(config)
    yield from norm(f"{at}input_layernorm", hidden)
    yield from linear(f"{at}self_attn.qkv_proj", q + 2 * kv, hidden)
    yield from linear(f"{at}self_attn.o_proj", hidden, q)
    yield from norm(f"{at}post_attention_layernorm", hidden)
    yield from linear(f"{at}mlp.gate_up_proj", 2 * width, hidden)
    yield from linear(f"{at}mlp.down_proj", hidden, width)


def _biases(config: Config) -> str:
    return "qkvo" if config.get("attention_bias") else ""
