"""Exemption rules: which modules stay in bf16, and which rules would make a checkpoint that vLLM cannot load."""

from __future__ import annotations

import re

from qforge.config import Rule
from qforge.modules import Module

# What vLLM computes as one matrix and therefore wants in one precision
# (packed_modules_mapping of its model classes; partial groups are refused: quant_utils.py:680).
FUSED = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")]


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
