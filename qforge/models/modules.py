"""The model's modules: names, shapes and kinds, out of the tensors of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from qforge.models import vllm_names
from qforge.models.architectures import in_memory, language
from qforge.models.checkpoint import Tensor
from qforge.models.structure import Matrix, Structure

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
BESIDE = (*TOWERS.values(), "tower")
BLOCK, NUMBER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\."), re.compile(r"(\d+)")
TOWER = re.compile(rf"(?:model\.|thinker\.)?({'|'.join(TOWERS)})\.")
# What drafts tokens: multi-token prediction (Qwen3-Next, Qwen3.5, MiMo, ERNIE), and drafters stored with their model
DRAFT = re.compile(r"(?:^|\.)(?:(?:mtp|nextn|draft|eagle|medusa)(?:_\w+)?|eagle3)\.")
DRAFT_JOINT = ".eh_proj.weight"  # joins state and embedding in a block of its own: DeepSeek-V3, GLM-4.5
STACKED = {  # the experts of a layer in one tensor, where no structure says how
    "gpt_oss": {
        "gate_up_proj": Matrix("expert", "", True, ("gate_proj", "up_proj"), True),
        "down_proj": Matrix("expert", "", True, ("down_proj",)),
    }
}

UNSEEN = "calibration and evaluation are text, which does not pass through it, so no test would show the damage"
KEPT = {
    "router": "it decides which experts run, and vLLM builds it unquantized",
    "gate": "it has one or two outputs for each head or expert: 4 bits save nothing, and no kernel reads so small a matrix",
    "indexer": "it chooses the tokens for attention, and vLLM builds a part of it unquantized",
    "state_space": "vLLM builds the mixers of Mamba 1 unquantized",
    "reshaped": "vLLM reorders its rows while it loads, and fails if they are packed",
    "convolution": "no kernel reads a quantized convolution",
    "table": "it is not a linear layer",
    "outside": "it is not in a transformer block",
    "draft": "it drafts tokens for speculative decoding (multi-token prediction), which the model itself does not run",
    "misfit": "the format or its kernel cannot hold a matrix of its shape",
    "unknown": "its role in the model is not known",
    "embedding": "it is a table that is looked up, and most kernels have no 4-bit embedding",
    "head": "its errors go directly into the logits, and few kernels have a 4-bit head",
    **dict.fromkeys(BESIDE, UNSEEN),
}


@dataclass(frozen=True)
class Module:
    """A weight matrix [out_features, in_features] of the model, or a stack of them.

    `name` is its module in the checkpoint, and in what llm-compressor and ModelOpt export: both write the names they
    read. Only a stack changes: llm-compressor takes it apart (see `matrices`; its modeling/moe/gpt_oss.py), ModelOpt
    keeps it whole (its export/unified_export_hf.py).
    """

    name: str
    kind: str  # attention, mixer, mlp, expert, shared_expert, or why it stays in bf16: a key of KEPT
    out_features: int
    in_features: int
    dtype: str = "BF16"
    stack: int = 1  # how many: the experts of a layer that lie in one tensor
    leaves: tuple[str, ...] = ()  # of a stack: the matrices of each expert, side by side along the outputs
    transposed: bool = False  # whether it lies as [in_features, out_features]
    alternate: bool = False  # whether the rows of `leaves` take turns
    block: int | None = None  # the number of its transformer block in the language model
    served: str | None = None  # its name in vLLM; None: vLLM does not load it
    fused: str | None = None  # the matrix in which vLLM computes it, by vLLM's name; `served` where it stands alone
    tensor: str = ""  # the tensor in the checkpoint that holds it
    memory: str = ""  # its module in transformers' memory, where that has another name
    asked: str = (
        ""  # by which vLLM asks whether it is quantized, where its class has another name for it than for its tensors
    )
    own_class: str = ""  # of that module, where libraries may not know it (structure.py)

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def names(self) -> list[str]:
        """All by which somebody asks whether it is left alone."""
        return [name for name in (self.name, self.memory, self.asked) if name]

    @property
    def matrices(self) -> list[tuple[str, int, int]]:
        """What a quantizer makes of it, as (name, out_features, in_features): itself, or the matrices of a stack.

        They are the names of experts that vLLM's loader looks for (fused_moe/routed_experts.py:1190), and llm-compressor's.
        """
        if self.stack == 1:
            return [(self.name, self.out_features, self.in_features)]
        layer, experts, _ = self.name.rpartition(".experts.")
        layer = layer if experts else self.name.rpartition(".")[0]  # Granite's block_sparse_moe.input_linear
        rows = self.out_features // len(self.leaves)
        return [
            (f"{layer}.experts.{n}.{leaf}", rows, self.in_features) for n in range(self.stack) for leaf in self.leaves
        ]

    @property
    def parameters(self) -> int:
        return self.stack * self.out_features * self.in_features

    @property
    def kept(self) -> str | None:
        """Why no method here may quantize it; None for the linear layers that 4-bit methods are made for."""
        return KEPT.get(self.kind)

    @property
    def stack_kept(self) -> bool:
        """Whether it holds the experts of a layer, which stay in bf16 whole."""
        return (
            self.kind in ("unknown", "misfit")
            and ".experts." in self.name
            and not NUMBER.search(self.name.rpartition(".experts.")[2])
        )

    @property
    def linear(self) -> bool:
        """Whether 4-bit methods may quantize it."""
        return self.kept is None


def from_tensors(
    tensors: Mapping[str, Tensor], config: dict[str, Any], structure: Structure | None = None
) -> list[Module]:
    """The modules of a bf16 checkpoint; those whose part in the model is not known are of the kind "unknown".

    `structure`: what transformers says of the model, where the names alone do not say it.
    """
    in_vllm, otherwise, drafts = vllm_names.names(config), vllm_names.asks_otherwise(config), _drafts(tensors, config)
    rearranged = tuple(f".{leaf}" for leaf in vllm_names.reshaped(config))
    modules = []
    for tensor_name, tensor in tensors.items():
        name, shape = tensor_name.removesuffix(".weight"), tensor.shape
        if len(shape) < 2 or name.endswith("bias"):
            continue
        if DRAFT.search(name) or name.startswith(drafts):
            matrix = Matrix("draft", name)
        else:
            matrix = _matrix(tensor_name, len(shape), config, structure)
        if rearranged and name.endswith(rearranged):
            matrix = Matrix("reshaped", name)
        stacked = matrix.kind == "expert" and len(shape) == 3
        stack, rows, columns = shape if stacked else (1, shape[0], prod(shape[1:]))
        out, inputs = (columns, rows) if matrix.transposed else (rows, columns)
        served, fused = in_vllm(name)
        modules.append(
            Module(
                name, matrix.kind, out, inputs, tensor.dtype, stack, matrix.leaves, matrix.transposed, matrix.alternate,
                _block(name, matrix.kind), served, fused, tensor_name,
                _numbered(matrix.module, name) or in_memory(config, name),
                otherwise(name), matrix.own_class,
            )
        )  # fmt: skip
    return sorted(_together(modules), key=_order)


def _matrix(tensor: str, dimensions: int, config: dict[str, Any], structure: Structure | None) -> Matrix:
    """What a matrix is: by transformers' word, else by its name."""
    name = tensor.removesuffix(".weight")
    if structure and structure.built:
        matrix = structure.matrix(tensor)
        if matrix:
            return matrix
    kind = _kind(name, dimensions)
    if kind == "expert" and dimensions == 3:
        return STACKED.get(str(config.get("model_type")), {}).get(name.rpartition(".")[2], Matrix("unknown", name))
    return Matrix(kind or "unknown", name)


def _together(modules: list[Module]) -> list[Module]:
    """What vLLM computes as one is in one precision: where a part of it stays in bf16, all of it does."""
    kept = {m.fused: m.kind for m in modules if m.fused and m.kept}
    return [replace(m, kind=kept[m.fused]) if m.linear and m.fused in kept else m for m in modules]


def _drafts(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> tuple[str, ...]:
    """Where the blocks past the model's own begin, which draft tokens."""
    count = language(config).get("num_hidden_layers")
    drafting = [name.removesuffix(DRAFT_JOINT[1:]) for name in tensors if name.endswith(DRAFT_JOINT)]
    return tuple(at for at in drafting if (block := BLOCK.search(at)) and count is not None and int(block[1]) >= count)


def _numbered(memory: str, name: str) -> str:
    """`memory` with the numbers of `name` for its Ns; nothing where it is no other name."""
    if memory in ("", name):
        return ""
    numbers = [part for part in name.split(".") if part.isdigit()]
    numbered = ".".join(numbers.pop(0) if part == "N" and numbers else part for part in memory.split("."))
    return "" if numbered == name else numbered


def _kind(name: str, dimensions: int) -> str | None:
    if tower := TOWER.match(name):
        return TOWERS[tower[1]]
    if ".experts." in name and dimensions <= 3:
        return "expert"
    if dimensions > 2:
        return None
    leaf = name.rpartition(".")[2]
    kind = LEAF_KINDS.get(leaf)
    return "shared_expert" if kind == "mlp" and ".shared_expert" in name else kind


def block_of(name: str) -> str | None:
    """The transformer block that a tensor or module belongs to, by its name."""
    match = BLOCK.search(f"{name}.")
    return f"{name}."[: match.end()] if match else None


def _block(name: str, kind: str) -> int | None:
    match = None if kind in (*BESIDE, "draft") else BLOCK.search(name)
    return int(match[1]) if match else None


def _order(module: Module) -> list[Any]:
    """Block 10 after block 9: text and numbers in turn."""
    parts: list[Any] = NUMBER.split(module.name)
    parts[1::2] = map(int, parts[1::2])
    return parts
