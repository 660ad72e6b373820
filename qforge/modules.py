"""The model's modules: names, shapes and kinds, out of the tensors of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from qforge import served
from qforge.architectures import FAMILIES
from qforge.checkpoint import Tensor

LEAF_KINDS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"), "attention"),
    **dict.fromkeys(("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"), "attention"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj", "gate_up_proj"), "mlp"),
    **dict.fromkeys(("gate", "router", "shared_expert_gate"), "router"),
    "embed_tokens": "embedding",
    "lm_head": "head",
}

# What is not the language model: where it begins in a checkpoint's names -> its kind.
TOWERS = {
    "vision_tower": "vision",
    "visual": "vision",
    "multi_modal_projector": "projector",
    "audio_tower": "audio",
    "talker": "talker",
    "code2wav": "code2wav",
}
TOWER = re.compile(rf"(?:model\.|thinker\.)?({'|'.join(TOWERS)})\.")

UNSEEN = "calibration and evaluation are text, which never runs through it, so nothing would show the damage"
KEPT = {
    "router": "it decides which experts run, and vLLM builds it unquantized",
    "embedding": "it is looked up, not multiplied, and most kernels read no 4-bit embedding",
    "head": "its errors go straight into the logits, and few kernels read a 4-bit head",
    **dict.fromkeys(TOWERS.values(), UNSEEN),
}


@dataclass(frozen=True)
class Module:
    """A weight matrix [out_features, in_features] of the model, or a stack of them.

    `name` is its module in the checkpoint, and in what llm-compressor and ModelOpt export: both write the names they
    read. Only a stack changes: llm-compressor writes `experts.N.gate_proj`, `.up_proj`, `.down_proj` for each expert
    (its modeling/moe/gpt_oss.py), ModelOpt keeps it whole (its export/unified_export_hf.py).
    """

    name: str
    kind: str  # attention, mlp, expert, shared_expert, router, embedding, head, projector or a tower's
    out_features: int
    in_features: int
    dtype: str = "BF16"
    stack: int = 1  # how many: the experts of a layer that lie in one tensor [stack, in_features, out_features]
    served: str | None = None  # its name in vLLM; None: vLLM does not load it
    fused: str | None = None  # the matrix in which vLLM computes it, by vLLM's name; `served` where it stands alone
    tensor: str = ""  # the tensor in the checkpoint that holds it

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    @cached_property
    def block(self) -> int | None:
        """The number of its transformer block in the language model."""
        if self.kind in TOWERS.values():
            return None
        match = re.search(r"\.layers\.(\d+)\.", self.name)
        return int(match[1]) if match else None

    @property
    def parameters(self) -> int:
        return self.stack * self.out_features * self.in_features

    @property
    def kept(self) -> str | None:
        """Why no method here may quantize it; None for the linear layers that 4-bit methods are made for."""
        return KEPT.get(self.kind)

    @property
    def linear(self) -> bool:
        """Whether 4-bit methods may quantize it."""
        return self.kept is None


def from_tensors(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> list[Module]:
    """The modules of a bf16 checkpoint. Raises ValueError at a matrix whose part in the model is unknown."""
    in_vllm = served.names(config)
    modules = []
    for tensor_name, tensor in tensors.items():
        name, shape = tensor_name.removesuffix(".weight"), tensor.shape
        if len(shape) < 2 or name.endswith("bias"):
            continue
        kind = _kind(name, len(shape))
        if kind is None:
            raise ValueError(
                f"{tensor_name}: qforge does not know this matrix's part in a {config.get('model_type')} model; "
                f"known architectures: {', '.join(FAMILIES)}"
            )
        if kind == "expert" and len(shape) == 3:
            stack, inputs, out = shape
        else:
            stack, out, inputs = 1, shape[0], prod(shape[1:])
        modules.append(Module(name, kind, out, inputs, tensor.dtype, stack, *in_vllm(name), tensor_name))
    return sorted(modules, key=_order)


def _kind(name: str, dimensions: int) -> str | None:
    if tower := TOWER.match(name):
        return TOWERS[tower[1]]
    if ".experts." in name:
        return "expert"
    if dimensions > 2:
        return None
    leaf = name.rpartition(".")[2]
    kind = LEAF_KINDS.get(leaf)
    return "shared_expert" if kind == "mlp" and ".shared_expert" in name else kind


def _order(module: Module) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", module.name))
