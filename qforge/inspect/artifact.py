"""What a check of an artifact finds, and the part of it that the plan decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qforge.inspect.inspect import inspect
from qforge.json_files import read_json
from qforge.models import quantization_config
from qforge.models.checkpoint import headers
from qforge.plan.plan import Plan

PLANNED = (
    "layout",
    "group_size",
    "quantized",
    "exempt",
    "parameters",
    "bytes",
)  # of plan.json, what decides the artifact


@dataclass
class Verified:
    """`faults`: it is not what it was. `differs`: it would be made or measured otherwise today. `checked`: what was done."""

    faults: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)


def plan_faults(planned: Plan, artifact: Path) -> Iterator[str]:
    """What differs between the plan that lies in the artifact and the one made from its job today."""
    then, now = read_json(artifact / "qforge/plan.json"), planned.summary()
    for name in PLANNED:
        if then[name] != now[name]:
            yield f"plan.{name}: {_short(then[name])} when it was made, {_short(now[name])} today"
    layout = quantization_config.detect(read_json(artifact / "config.json"))
    if layout != then["layout"]:
        yield f"config.json says {layout}, the plan says {then['layout']}"


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list | dict) else str(value)


def tensor_faults(planned: Plan, artifact: Path, source: Path | None) -> list[str]:
    """Tensors that are not as planned; with the source also their values, as `inspect` compares them."""
    if source:
        return inspect(artifact, planned, source).faults
    tensors = headers(artifact)
    unlike = [
        name for name, t in planned.tensors.items()
        if name not in tensors or (tensors[name].dtype, tensors[name].shape) != (t.dtype, t.shape)
    ]  # fmt: skip
    return [f"{name}: not as planned" for name in sorted(unlike)]
