"""Exemption rules: which modules stay in bf16, and which rules would make a checkpoint that vLLM cannot load.

A garbage model or one that does not load mostly comes from a rule that matched something else than its author meant.
So a rule is refused when it can match nothing, when it splits what vLLM computes as one matrix, or when a number in it
catches more blocks than the one it names; and the plan says of every rule what it hits and what it changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qforge.config.job import Rule
from qforge.models.modules import Module

SHOWN = 3  # examples per message
MEASURED = "measured:sensitivity"  # a rule that waits for a measurement to name its modules


@dataclass(frozen=True)
class Hits:
    """What a rule matches."""

    why: str
    modules: list[str]
    changes: list[str]  # those that the method would have quantized, had no rule before it named them


def waits(rule: Rule) -> bool:
    """Whether a measurement has still to say what the rule names; until then it names nothing."""
    return rule.match == [MEASURED]


def exempted(modules: Sequence[Module], rules: Mapping[str, Rule], tied: bool) -> dict[str, Hits]:
    """What each rule leaves in bf16. `tied`: the model has no head of its own; `role:lm_head` means the shared embedding.

    Raises ValueError for a rule that can never match this model, for one that catches blocks it does not name, and for one
    that splits what vLLM fuses.
    """
    hits_by_rule: dict[str, Hits] = {}
    taken: dict[str, str] = {}  # module -> the first rule that names it
    last = last_block(modules)
    for name, rule in rules.items():
        if not rule.match:
            raise ValueError(
                f"exempt.{name}.match=[]: it names nothing; use a name, re:, role: or block:, or leave the rule out"
            )
        if waits(rule):
            hits_by_rule[name] = Hits(rule.why, [], [])
            continue
        key = f"exempt.{name}"
        matched = {m.name: m for pattern in rule.match for m in named(modules, key, pattern, last, tied)}
        changes = [m.name for m in matched.values() if m.linear and m.name not in taken]
        hits_by_rule[name] = Hits(rule.why, list(matched), changes)
        taken = {**dict.fromkeys(matched, name), **taken}
    _refuse_split(modules, taken)
    return hits_by_rule


def last_block(modules: Sequence[Module]) -> int:
    """The number of the language model's last block."""
    return max((m.block for m in modules if m.block is not None), default=-1)


def named(modules: Sequence[Module], key: str, pattern: str, last: int, tied: bool) -> list[Module]:
    """The modules that `pattern`, given as `key`, names. Raises ValueError where there are none. `last`: the last block."""
    found = [m for m in modules if _matches(m, key, pattern, last, tied)]
    if not found:
        shapes = ", ".join(sorted({_shape_of(m.name) for m in modules if m.linear}))
        glob = "" if ":" in pattern or "*" not in pattern else " (a glob is no rule: use re: and a regular expression)"
        raise ValueError(
            f"{key}: {pattern!r} matches no module of this model{glob}; use a name, re:, role: or block: that "
            f"fits; what can be named looks like {shapes}"
        )
    if pattern.startswith("re:"):
        _refuse_more_blocks(key, pattern, {m.block for m in found if m.block is not None})
    return found


def _refuse_more_blocks(key: str, pattern: str, blocks: set[int]) -> None:
    """`re:model.layers.1.*` names block 1 and catches 10-19 as well, since `.` is any character."""
    numbers = re.findall(r"layers(?:\\?\.|\[\.\])(\d+)(?![\d\[(?\\])", pattern)
    for number in numbers:
        more = sorted(str(b) for b in blocks if str(b).startswith(number) and str(b) not in numbers)
        if int(number) in blocks and more:
            raise ValueError(
                f"{key}: {pattern!r} matches not only block {number} but also {_some(more)}; use "
                rf"layers\.{number}\. with both dots escaped, or block:{number}"
            )


def _matches(module: Module, key: str, pattern: str, last: int, tied: bool) -> bool:
    """`role:X`, `block:first`, `block:last`, `block:N`, `block:first/down_proj`, `re:...` or an exact name."""
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], module.name) is not None
        except re.error as error:
            raise ValueError(
                f"{key}: {pattern!r} is not a regular expression ({error}); use one that Python's re accepts"
            ) from None
    if pattern.startswith("role:"):
        role = pattern[5:]
        if role == "lm_head" and tied:
            role = "embedding"
        return role in (module.leaf, module.kind)
    if pattern.startswith("block:"):
        where, _, leaf = pattern[6:].partition("/")
        number = {"first": 0, "last": last}.get(where, int(where) if where.isascii() and where.isdigit() else None)
        return number is not None and module.block == number and leaf in ("", module.leaf)
    return module.name == pattern


def _refuse_split(modules: Sequence[Module], taken: Mapping[str, str]) -> None:
    """vLLM computes a fused matrix in one precision (packed_modules_mapping; quant_utils.py:680 refuses a part)."""
    groups: dict[str, list[Module]] = {}
    for module in modules:
        if module.linear and module.fused:
            groups.setdefault(module.fused, []).append(module)
    for fused, members in groups.items():
        exempt = [m.name for m in members if m.name in taken]
        if not exempt or len(exempt) == len(members):
            continue
        rule, kept = taken[exempt[0]], [m.name for m in members if m.name not in taken]
        if members[0].kind == "expert":
            raise ValueError(
                f"exempt.{rule}: exempts {len(exempt)} of the {len(members)} expert matrices of {fused}; vLLM loads the "
                "experts of a layer in one precision, so exempt all of them or none; use re: with the whole layer's experts"
            )
        together = "+".join(m.leaf for m in members)
        raise ValueError(
            f"exempt.{rule}: exempts {_some(exempt)} but not {_some(kept)}; vLLM computes {together} as one matrix in one "
            "precision, so exempt all of them or none; use a rule that names them all"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _shape_of(name: str) -> str:
    return re.sub(r"\d+", "N", name)
