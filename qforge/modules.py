"""The model's modules: names, shapes and kinds, from safetensors headers or from config.json alone; exemption rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qforge.checkpoint import Tensor
from qforge.config import Rule

# What vLLM computes as one matrix and therefore wants in one precision
# (packed_modules_mapping of its model classes; partial groups are refused: quant_utils.py:680).
FUSED = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")]

LEAF_KINDS = {
    "q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "o_proj": "attention",
    "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp",
    "gate": "router", "embed_tokens": "embedding", "lm_head": "head",
}  # fmt: skip
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "qwen3_moe")


@dataclass(frozen=True)
class Module:
    """A weight matrix [out_features, in_features] of the model, by the name of its module."""

    name: str
    kind: str  # attention, mlp, expert, router, embedding, head
    out_features: int
    in_features: int
    dtype: str = "BF16"

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def block(self) -> int | None:
        """The number of its transformer block."""
        match = re.search(r"\.layers\.(\d+)\.", self.name)
        return int(match[1]) if match else None

    @property
    def linear(self) -> bool:
        """Whether 4-bit methods may quantize it: a linear layer that is no router, embedding or head."""
        return self.kind in ("attention", "mlp", "expert")


def from_tensors(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> list[Module]:
    """The modules of a bf16 checkpoint. Raises ValueError at a matrix whose part in the model is unknown."""
    modules = []
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition(".")
        if parameter != "weight" or len(tensor.shape) != 2:
            continue
        kind = _kind(module)
        if kind is None:
            raise ValueError(
                f"{name}: qforge does not know this matrix's part in a {config.get('model_type')} model; "
                f"known architectures: {', '.join(ARCHITECTURES)}"
            )
        modules.append(Module(module, kind, *tensor.shape, tensor.dtype))
    return sorted(modules, key=_order)


def from_config(config: dict[str, Any]) -> dict[str, Tensor]:
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


def _kind(module: str) -> str | None:
    if ".experts." in module:
        return "expert"
    return LEAF_KINDS.get(module.rpartition(".")[2])


def _order(module: Module) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", module.name))


def exempted(modules: list[Module], rules: dict[str, Rule], tied: bool) -> dict[str, str]:
    """The modules that stay in bf16, each with the name of the first rule that says so.

    `tied`: the model has no head of its own; `role:lm_head` then means the embedding it shares.
    Raises ValueError for a rule that can never match this model, and for one that splits what vLLM fuses.
    """
    hits: dict[str, str] = {}
    last = max((m.block for m in modules if m.block is not None), default=-1)
    for name, rule in rules.items():
        for pattern in rule.match:
            matched = [m for m in modules if _matches(m, pattern, last, tied)]
            if not matched:
                raise ValueError(
                    f"exempt.{name}: {pattern!r} matches no module of this model; its modules look like "
                    f"{', '.join(sorted({_shape_of(m.name) for m in modules}))}"
                )
            for module in matched:
                hits.setdefault(module.name, name)
    _refuse_split(modules, hits)
    return hits


def _matches(module: Module, pattern: str, last: int, tied: bool) -> bool:
    """`role:X`, `block:first`, `block:last`, `block:N`, `block:first/down_proj`, `re:...` or an exact name."""
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], module.name) is not None
    if pattern.startswith("role:"):
        role = pattern[5:]
        if role == "lm_head" and tied:
            role = "embed_tokens"
        return role in (module.leaf, module.kind)
    if pattern.startswith("block:"):
        where, _, leaf = pattern[6:].partition("/")
        number = {"first": 0, "last": last}.get(where, int(where) if where.isdigit() else None)
        return number is not None and module.block == number and leaf in ("", module.leaf)
    return module.name == pattern


def _refuse_split(modules: list[Module], hits: dict[str, str]) -> None:
    quantized = {m.name for m in modules} - hits.keys()
    for module in modules:
        parent, _, leaf = module.name.rpartition(".")
        for group in FUSED:
            if leaf not in group or module.name not in hits:
                continue
            kept = [f"{parent}.{other}" for other in group if f"{parent}.{other}" in quantized]
            if kept:
                raise ValueError(
                    f"exempt.{hits[module.name]}: exempts {module.name} but not {', '.join(kept)}; vLLM computes "
                    f"{'+'.join(group)} as one matrix in one precision, so exempt all of them or none"
                )
    experts: dict[str, list[str]] = {}
    for module in modules:
        if module.kind == "expert":
            experts.setdefault(module.name.partition(".experts.")[0], []).append(module.name)
    for layer, members in experts.items():
        exempt = [name for name in members if name in hits]
        if exempt and len(exempt) < len(members):
            raise ValueError(
                f"exempt.{hits[exempt[0]]}: exempts {len(exempt)} of the {len(members)} expert matrices of {layer}; "
                "vLLM loads the experts of a layer in one precision, so exempt all of them or none"
            )


def _shape_of(name: str) -> str:
    return re.sub(r"\d+", "N", name)
