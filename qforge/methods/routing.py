"""What the routers of a mixture send to each expert while a library calibrates it, counted in the library's own pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Register = Callable[[nn.Module, Callable[..., None]], RemovableHandle]  # puts a hook before a module's forward pass


class Routing:
    """The tokens of each expert: those that its router sent to it, and those that the library showed to it.

    What routers return differs (DeepSeek-V3's give logits, of which the block chooses), so counted is what the module that
    holds a block's experts is called with, in transformers 5 and in llm-compressor: hidden states, chosen experts, weights.
    """

    def __init__(self, model: nn.Module, exempt: Collection[str], register: Register) -> None:
        """`register` is the library's own way to hook, where it has passes that calibrate nothing."""
        self.sent: dict[str, torch.Tensor] = {}  # by block: [experts]
        self.shown: dict[str, torch.Tensor] = {}
        self.handles: list[RemovableHandle] = []
        for name, module in model.named_modules():
            kept = any(exempted.startswith(f"{name}.") for exempted in exempt)  # all experts of a block, or none
            if name.endswith(".experts") and hasattr(module, "num_experts") and not kept:
                self._watch(name.removesuffix(".experts"), module, register)

    def _watch(self, block: str, experts: Any, register: Register) -> None:
        sent = self.sent[block] = torch.zeros(experts.num_experts, dtype=torch.long)
        processed = self.shown[block] = torch.zeros_like(sent) if isinstance(experts, nn.ModuleList) else sent
        self.handles.append(register(experts, partial(_choices, sent)))
        if processed is not sent:  # experts that lie in one tensor see what they are sent
            self.handles += [register(experts[n], partial(_rows, processed[n])) for n in range(len(processed))]

    def stop(self) -> None:
        """Count no more."""
        for handle in self.handles:
            handle.remove()

    def counts(self) -> dict[str, Any] | None:
        """Tokens by block and expert as `sent`, the least and the most of `shown`; none where no experts are quantized."""
        if not self.sent:
            return None
        processed = torch.cat(list(self.shown.values()))
        return {
            "sent": {block: tokens.tolist() for block, tokens in self.sent.items()},
            "shown": {"least": int(processed.min()), "most": int(processed.max())},
        }


def _choices(sent: torch.Tensor, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    sent += torch.bincount(inputs[1].flatten().cpu(), minlength=len(sent))


def _rows(counts: torch.Tensor, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    counts += inputs[0].shape[0]
