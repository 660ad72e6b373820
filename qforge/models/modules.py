"""The model's modules: names, shapes and kinds, out of the tensors of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from qforge.models import vllm_names
from qforge.models.architectures import FAMILIES
from qforge.models.checkpoint import Tensor

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
BLOCK, NUMBER = re.compile(r"\.layers\.(\d+)\."), re.compile(r"(\d+)")
TOWER = re.compile(rf"(?:model\.|thinker\.)?({'|'.join(TOWERS)})\.")

UNSEEN = "calibration and evaluation are text, which does not pass through it, so no test would show the damage"
KEPT = {
    "router": "it decides which experts run, and vLLM builds it unquantized",
    "embedding": "it is a table that is looked up, and most kernels have no 4-bit embedding",
    "head": "its errors go directly into the logits, and few kernels have a 4-bit head",
    **dict.fromkeys(TOWERS.values(), UNSEEN),
}


@dataclass(frozen=True)
class Module:
    """A weight matrix [out_features, in_features] of the model, or a stack of them.

    `name` is its module in the checkpoint, and in what llm-compressor and ModelOpt export: both write the names they
    read. Only a stack changes: llm-compressor takes it apart (see `matrices`; its modeling/moe/gpt_oss.py), ModelOpt
    keeps it whole (its export/unified_export_hf.py).
    """

    name: str
    kind: str  # attention, mlp, expert, shared_expert, router, embedding, head, projector or a tower's
    out_features: int
    in_features: int
    dtype: str = "BF16"
    stack: int = 1  # how many: the experts of a layer that lie in one tensor [stack, in_features, out_features]
    block: int | None = None  # the number of its transformer block in the language model
    served: str | None = None  # its name in vLLM; None: vLLM does not load it
    fused: str | None = None  # the matrix in which vLLM computes it, by vLLM's name; `served` where it stands alone
    tensor: str = ""  # the tensor in the checkpoint that holds it

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def matrices(self) -> list[tuple[str, int, int]]:
        """What a quantizer makes of it, as (name, out_features, in_features): itself, or the matrices of a stack.

        They are llm-compressor's names of the experts; it takes gate and up, which alternate, out of gate_up_proj.
        """
        if self.stack == 1:
            return [(self.name, self.out_features, self.in_features)]
        experts, _, leaf = self.name.rpartition(".")
        leaves = ["gate_proj", "up_proj"] if leaf == "gate_up_proj" else [leaf]
        rows = self.out_features // len(leaves)
        return [(f"{experts}.{n}.{leaf}", rows, self.in_features) for n in range(self.stack) for leaf in leaves]

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
    in_vllm = vllm_names.names(config)
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
        modules.append(
            Module(name, kind, out, inputs, tensor.dtype, stack, _block(name, kind), *in_vllm(name), tensor_name)
        )
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


def _block(name: str, kind: str) -> int | None:
    match = None if kind in TOWERS.values() else BLOCK.search(name)
    return int(match[1]) if match else None


def _order(module: Module) -> list[Any]:
    """Block 10 after block 9: text and numbers in turn."""
    parts: list[Any] = NUMBER.split(module.name)
    parts[1::2] = map(int, parts[1::2])
    return parts
