"""Which format a checkpoint of compressed-tensors makes vLLM read each matrix in: by the targets of its config_groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qforge.config.method import Scheme
from qforge.models import quantization_config, vllm_names
from qforge.models.formats import CT, FORMATS
from qforge.models.modules import Module
from qforge.plan.plan import Plan

Packed = tuple[str | None, int | None]  # a layout of formats.FORMATS, none for one of no layout here, and a group size


def several(config: dict[str, Any], plan: Plan) -> str | None:
    """Why a checkpoint with several formats cannot be compared with the plan; none for all others."""
    if quantization_config.announced(config).get("quant_method") != CT or plan.mixed:
        return None
    formats = list(dict.fromkeys(_said(packed) for _, packed in quantization_config.groups(config)))
    if len(formats) <= 1:
        return None
    return (
        f"config.json: mixed precision ({', '.join(formats)}), which this plan does not have; to measure it anyway, leave "
        "inspect out of stages"
    )


def faults(config: dict[str, Any], linear: Sequence[Module], plan: Plan) -> list[str]:
    """Of a mix the matrices that vLLM would read in another format than they are packed in."""
    announced, wrong = read(config, linear), []
    for share in plan.shares:
        packed = (share.layout, share.group_size)
        for module in share.modules:
            found = announced.get(module.name)
            if module.served and found != packed:
                wrong.append(f"{module.name} (read as {_said(found) if found else 'bf16'}, packed as {_said(packed)})")
    return wrong


def as_mix(config: dict[str, Any], packed: Sequence[Module]) -> tuple[dict[str, str], dict[str, Scheme]]:
    """method.formats and method.schemes of somebody's checkpoint: the format of each matrix of `packed`, as vLLM reads it.

    What no target names stays out.
    """
    formats, schemes = dict[str, str](), dict[str, Scheme]()
    for name, found in read(config, packed).items():
        if found and (layout := found[0]):
            group = found[1]
            formats[name] = f"{layout}:{group}" if group else layout
            schemes[formats[name]] = Scheme(layout, group if FORMATS[layout].group_sizes else None)
    return formats, schemes


def untargeted(config: dict[str, Any], linear: Sequence[Module]) -> set[str]:
    """Those that vLLM builds unquantized because no target of compressed-tensors' config_groups fits."""
    if quantization_config.announced(config).get("quant_method") != CT:
        return set()
    return {name for name, found in read(config, linear).items() if found is None}


def _said(packed: Packed) -> str:
    layout, group = packed
    return " ".join([layout or "an unknown format", *([f"g{group}"] if group else [])])


def read(config: Mapping[str, Any], modules: Sequence[Module]) -> dict[str, Packed | None]:
    """The linear modules that vLLM loads (by their names in the checkpoint), each with its format; none: no target fits.

    A target is a name in the checkpoint, `re:` and what a name in vLLM begins with, or a part of a class's name, which Linear
    is of all of them. Names come first, then those of the parts of a fused matrix, which must all fit and of which the first
    decides, then classes (0.32 compressed_tensors/utils.py:73).
    """
    name, groups = vllm_names.names(dict(config)), quantization_config.groups(dict(config))
    by_name: dict[str, Packed] = {}
    patterns: list[tuple[re.Pattern[str], Packed]] = []
    every: Packed | None = None
    for targets, packed in groups:
        for target in targets:
            if target.startswith("re:"):
                patterns.append((re.compile(target[3:]), packed))
            elif target == "Linear":
                every = every or packed
            elif served := name(target)[0]:
                by_name.setdefault(served, packed)

    def of(served: str) -> Packed | None:
        return by_name.get(served) or next((packed for pattern, packed in patterns if pattern.match(served)), None)

    found: dict[str, Packed | None] = {}
    members: dict[str, list[Module]] = {}
    for module in modules:
        if module.linear and module.served and module.fused:
            members.setdefault(module.fused, []).append(module)
    for fused, parts in members.items():
        each = [of(part.served or "") if part.stack == 1 else of(part.matrices[0][0]) for part in parts]
        whole = of(fused) or (each[0] if all(each) else None) or every
        found |= dict.fromkeys((part.name for part in parts), whole)
    return found
