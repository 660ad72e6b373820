"""What transformers says of a model whose type has no file here: made by stages/structure.py, read by plan and stream."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qforge.json_files import read_json
from qforge.models.checkpoint import Tensor

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
# The names that transformers gives a number in config.json -> the one that qforge reads
NUMBERS = {
    "num_hidden_layers": ("num_hidden_layers",),
    "num_attention_heads": ("num_attention_heads",),
    "num_key_value_heads": ("num_key_value_heads",),
    "hidden_size": ("hidden_size",),
    "head_dim": ("head_dim",),
    "vocab_size": ("vocab_size",),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "moe_intermediate_size": ("moe_intermediate_size",),
    "max_position_embeddings": ("max_position_embeddings",),
    "sliding_window": ("sliding_window",),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("num_experts_per_tok", "moe_topk", "moe_k"),
    "kv_lora_rank": ("kv_lora_rank",),
    "q_lora_rank": ("q_lora_rank",),
    "qk_rope_head_dim": ("qk_rope_head_dim",),
    "layer_types": ("layer_types", "layers_block_type"),
}


def numbers(config: Any) -> dict[str, Any]:
    """The language model's numbers, under the names that most configurations give them."""
    text = config.get_text_config(decoder=True)
    text.allow_global_per_layer_attribute_access = True  # Gemma 4's heads differ by layer: the commonest number
    values = {
        key: next((value for name in names if (value := getattr(text, name, None)) is not None), None)
        for key, names in NUMBERS.items()
    }
    return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Matrix:
    """A matrix of the checkpoint, or a stack of them. `module`: what holds it in memory, N for each number."""

    kind: str
    module: str
    transposed: bool = False  # whether it lies as [in_features, out_features]
    leaves: tuple[str, ...] = ()  # of a stack of experts: the matrices of each, side by side along the outputs
    alternate: bool = False  # their rows take turns, instead of one following the other
    own_class: str = (
        ""  # in memory, where that is neither torch's Linear itself nor transformers' common interface of experts
    )


@dataclass(frozen=True)
class Structure:
    """A model's class, built without weights."""

    library: str  # transformers and its version
    built: str | None  # the class; none where none could be built
    why: str = ""  # none could be built
    config: dict[str, Any] = field(default_factory=dict)  # the language model's numbers, by the commonest names
    matrices: dict[str, Matrix] = field(default_factory=dict)  # by tensor name; N for numbers that make no difference
    tensors: dict[str, Tensor] | None = None  # of the whole checkpoint, where its files were not at hand
    core: dict[str, Any] = field(default_factory=dict)  # of a multimodal model: see stages/causal.py

    def matrix(self, tensor: str) -> Matrix | None:
        """What `tensor` is; none where the class has no place for it."""
        return self.matrices.get(tensor) or self.matrices.get(pattern(tensor))


def pattern(name: str) -> str:
    """A name with N for each number that is a part of it."""
    return NUMBER.sub("N", name)


@functools.cache  # a run plans several times
def read(file: Path) -> Structure:
    """The result of stages/structure.py in `file`."""
    content = read_json(file)
    matrices = {
        name: Matrix(**{**entry, "leaves": tuple(entry.get("leaves", ()))})
        for name, entry in content.pop("matrices", {}).items()
    }
    tensors = content.pop("tensors", None)
    if tensors is not None:
        tensors = {name: Tensor(dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()}
    return Structure(**content, matrices=matrices, tensors=tensors)
