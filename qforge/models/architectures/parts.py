"""The pieces that architectures share. Each yields names and shapes; a matrix is [out_features, in_features]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Config = dict[str, Any]
Shapes = Iterator[tuple[str, tuple[int, ...]]]
Layer = Callable[[Config, str, int], Shapes]


def linear(name: str, out: int, inputs: int, bias: bool = False) -> Shapes:
    """A linear layer."""
    yield f"{name}.weight", (out, inputs)
    if bias:
        yield f"{name}.bias", (out,)


def norm(name: str, size: int, bias: bool = False) -> Shapes:
    """RMSNorm, or LayerNorm with a bias."""
    yield f"{name}.weight", (size,)
    if bias:
        yield f"{name}.bias", (size,)


def conv(name: str, *shape: int, bias: int = 0) -> Shapes:
    """A convolution's kernel, and a bias of that size."""
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", (bias,)


def decoder(config: Config, at: str, layer: Layer) -> Shapes:
    """Embedding, blocks, final norm."""
    yield f"{at}embed_tokens.weight", (config["vocab_size"], config["hidden_size"])
    yield from blocks(config, at, layer)


def blocks(config: Config, at: str, layer: Layer) -> Shapes:
    """A decoder without its embedding."""
    for number in range(config["num_hidden_layers"]):
        yield from layer(config, f"{at}layers.{number}.", number)
    yield from norm(f"{at}norm", config["hidden_size"])


def head(config: Config, name: str = "lm_head", tied: bool = False) -> Shapes:
    """The output matrix, unless it is the embedding."""
    if not config.get("tie_word_embeddings", tied):
        yield from linear(name, config["vocab_size"], config["hidden_size"])


def block(config: Config, at: str, mlp: Shapes, attention: Shapes) -> Shapes:
    """A pre-norm block: two norms, attention and mlp."""
    yield from norm(f"{at}input_layernorm", config["hidden_size"])
    yield from attention
    yield from norm(f"{at}post_attention_layernorm", config["hidden_size"])
    yield from mlp


def widths(config: Config) -> tuple[int, int, int]:
    """Outputs of q_proj, of k_proj and v_proj, and of one head."""
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    return heads * size, (config.get("num_key_value_heads") or heads) * size, size


def attention(config: Config, at: str, *, biases: str = "", norms: bool = False) -> Shapes:
    """Grouped-query attention. `biases`: which of q, k, v and o have one; `norms`: q and k are normalized per head."""
    hidden, (q, kv, size) = config["hidden_size"], widths(config)
    for leaf, out, inputs in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
        yield from linear(f"{at}self_attn.{leaf}_proj", out, inputs, leaf in biases)
    if norms:
        yield from norm(f"{at}self_attn.q_norm", size)
        yield from norm(f"{at}self_attn.k_norm", size)


def gated(at: str, hidden: int, width: int, bias: bool = False) -> Shapes:
    """A gated mlp: down(act(gate(x)) * up(x))."""
    yield from linear(f"{at}gate_proj", width, hidden, bias)
    yield from linear(f"{at}up_proj", width, hidden, bias)
    yield from linear(f"{at}down_proj", hidden, width, bias)


def experts(at: str, count: int, hidden: int, width: int) -> Shapes:
    """A router and gated experts, one by one."""
    yield f"{at}gate.weight", (count, hidden)
    for number in range(count):
        yield from gated(f"{at}experts.{number}.", hidden, width)
