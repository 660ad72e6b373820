"""The model's modules: names, shapes and kinds, out of the tensors of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qforge.architectures import ARCHITECTURES
from qforge.checkpoint import Tensor

LEAF_KINDS = {
    "q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "o_proj": "attention",
    "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp",
    "gate": "router", "embed_tokens": "embedding", "lm_head": "head",
}  # fmt: skip


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


def _kind(module: str) -> str | None:
    if ".experts." in module:
        return "expert"
    return LEAF_KINDS.get(module.rpartition(".")[2])


def _order(module: Module) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", module.name))
