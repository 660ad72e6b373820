"""The text core of a multimodal model: the part of its checkpoint that is a plain causal language model by other names.

Libraries that need a whole model quantize it alone; towers, projectors and talkers are the source's, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

OWN, HEAD = "model.", "lm_head"  # where a causal model of transformers has its decoder and its head
LISTS = ("ignore", "exclude_modules", "modules_to_not_convert", "llm_int8_skip_modules")  # of a quantization config


@dataclass(frozen=True)
class Core:
    """Where the core is in the checkpoint, and what it is there."""

    at: str  # before the names of its decoder: "model.language_model."
    head: str | None  # its output matrix; none where that is the embedding
    kind: str | None  # the model_type of the causal model; none where transformers was not asked yet
    splits: bool = False  # whether its checkpoint has experts one by one that the source has in one tensor

    def inside(self, name: str) -> str | None:
        """The core's name of a tensor or module of the checkpoint; none for what is beside the core."""
        if name == HEAD or (self.head and f"{name}.".startswith(f"{self.head}.")):
            return HEAD + name[len(self.head or HEAD) :]
        return OWN + name.removeprefix(self.at) if name.startswith(self.at) else None

    def outside(self, name: str) -> str:
        """The checkpoint's name of a tensor or module of the core."""
        if f"{name}.".startswith(f"{HEAD}."):
            return (self.head or HEAD) + name.removeprefix(HEAD)
        return self.at + name.removeprefix(OWN)

    def all_inside(self, names: Iterable[str]) -> list[str]:
        """The core's names of those that are of the core."""
        return [own for name in names if (own := self.inside(name)) is not None]


def renamed(quantization: Mapping[str, Any], exempt: Collection[str]) -> dict[str, Any]:
    """A library's word on how it quantized the core, with what stays in 16 bits in the whole checkpoint: `exempt`."""
    own = {key: sorted(exempt) if key in LISTS else value for key, value in quantization.items()}
    if isinstance(inner := own.get("quantization"), dict):  # of ModelOpt's hf_quant_config.json
        own["quantization"] = renamed(inner, exempt)
    if "dynamic" in own:  # GPTQModel's rules; -: leaves alone
        own["dynamic"] = {f"-:^{re.escape(name)}$": {} for name in sorted(exempt)}
    return own
