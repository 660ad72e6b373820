"""What is quantized or left in bf16 as one: the parts of a model whose sensitivity is measured."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qforge.config.job import Unit
from qforge.models.formats import Format
from qforge.models.modules import Module, block_of

ALL = "all"


@dataclass(frozen=True)
class Part:
    """Matrices of the model that are closed under what vLLM fuses. `kind` and `block` are its place in a heat map."""

    name: str
    kind: str
    block: int | str
    modules: list[Module]

    @property
    def patterns(self) -> list[str]:
        """What an exemption rule says to name exactly these: experts, which are many, by their layer."""
        layers = {m.name.partition(".experts.")[0] for m in self.modules if m.kind == "expert"}
        experts = [rf"re:{re.escape(layer)}\.experts\..*" for layer in sorted(layers)]
        return [*experts, *(m.name for m in self.modules if m.kind != "expert")]

    def extra_bytes(self, layout: Format, group: int | None) -> int:
        """What it takes in bf16, beyond what it takes packed."""
        packed = [layout.packed(rows, columns, group or 0) for m in self.modules for _, rows, columns in m.matrices]
        return sum(2 * m.parameters for m in self.modules) - sum(t.nbytes for p in packed for t in p.values())


def parts(modules: Iterable[Module], unit: Unit) -> list[Part]:
    """The modules, all of which are quantized, in parts; in the model's order."""
    parts_by_name: dict[str, Part] = {}
    for module in modules:
        fused = module.fused or module.name
        kind = fused.removeprefix(block_of(fused) or "")
        block: int | str = ALL if module.block is None or unit is Unit.kind else module.block
        name = {Unit.module: fused, Unit.block: f"block {block}", Unit.kind: kind}[unit]
        parts_by_name.setdefault(name, Part(name, ALL if unit is Unit.block else kind, block, [])).modules.append(
            module
        )
    return list(parts_by_name.values())
