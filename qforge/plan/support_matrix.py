"""What serves what: for a checkpoint layout, a group size, a hardware and an engine, the kernel to expect, or why there is
none and what to use instead. The facts, each with where it was read or run, are the rows of support_matrix.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from qforge.config.job import Engine, Hardware, Runtime, Vendor
from qforge.machine import hardware

FILE = Path(__file__).with_suffix(".yaml")
NEWEST = "0.33"  # the vLLM that the rows without `versions` were read in
CPU_BUILD = "0.32"  # the newest of vLLM's CPU build
OMNI = "0.30"  # the vLLM-Omni that is pinned
VLLM, VLLM_OMNI = "vllm", "vllm_omni"  # engines


class How(Enum):
    native = "native"  # the format's own arithmetic or a kernel made for it
    weight_only = "weight-only"  # packed weights, 16-bit arithmetic
    emulated = "emulated"  # unpacked to bf16: the right numbers, neither the memory nor the speed
    simulated = (
        "simulated"  # nothing serves it packed: quantized and unpacked weights, for their quality (plan says so)
    )
    refused = "refused"


@dataclass(frozen=True)
class Serving:
    """How something will be served. For `refused`, `reason` says why and `fix` what to do instead."""

    how: How
    kernel: str
    reason: str
    evidence: str
    fix: str = ""
    instead: tuple[str, int | None] | None = None  # of `fix`: a layout and a group size that are served there
    experts_kernel: str = ""  # of a mixture: its experts have another kernel than its linear layers
    beside: str = ""  # the kernel of linear layers whose sizes `kernel` does not take
    arithmetic: str = ""  # what the kernel computes in, where that is not the format's own


def newest(hw: Hardware) -> str:
    """The vLLM that will serve on this hardware, as far as a plan knows: the one that the environments pin."""
    return CPU_BUILD if hw.vendor is Vendor.cpu else NEWEST


def kernels(serving: Serving | Mapping[str, Any]) -> str:
    """All kernels of a `Serving`, or of its JSON, for people."""
    fields = serving if isinstance(serving, Mapping) else vars(serving)
    odd, experts = (fields.get(kind, "") for kind in ("beside", "experts_kernel"))  # older rows have neither
    parts = (fields["kernel"], odd and f"{odd} for sizes it does not take", experts and f"experts: {experts}")
    return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Row:
    """One fact; the fields are explained at the head of support_matrix.yaml."""

    formats: list[str]
    platforms: list[str]
    how: str
    reason: str
    evidence: str
    kernel: str = ""
    arithmetic: str = ""
    layers: str = "both"
    groups: list[int] = field(default_factory=list)
    versions: str = ""
    fix: str = ""
    instead: list[Any] = field(default_factory=list)

    def fits(self, layout: str, platform: str, group: int | None, layers: str, version: str) -> bool:
        """Whether this row speaks of that case."""
        return (
            layout in self.formats
            and platform in self.platforms
            and (not self.groups or group in self.groups)
            and self.layers in ("both", layers)
            and is_of(version, self.versions)
        )


@dataclass(frozen=True)
class Matrix:
    """A weight to be sharded, (outputs, inputs) as a checkpoint stores it; row-parallel ones are split by their inputs."""

    outputs: int
    inputs: int
    row_parallel: bool = False  # o_proj, down_proj
    expert: bool = False


@cache
def facts() -> dict[str, Any]:
    """The data: `rows`, what `kernels` and formats' `blocks` ask of a matrix, and which `torch` quantizes on a platform."""
    data: dict[str, Any] = yaml.load(FILE.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {**data, "rows": [Row(**row) for row in data["rows"]]}


def serving(
    scheme: str, layout: str, group_size: int | None, hw: Hardware, runtime: Runtime, moe: bool = False,
    version: str = NEWEST,
) -> Serving:  # fmt: skip
    """How `runtime` (vLLM `version`) on `hw` serves `scheme` in this checkpoint layout (a key of formats.FORMATS).

    With `moe` the experts are asked for as well, and the worse of the two answers counts.
    """
    where = platform(hw, runtime)
    linear, experts = (_first(layout, where, group_size, layers, version) for layers in ("linear", "experts"))
    for row in (experts, linear) if moe else (linear,):
        if row is None:
            reason = f"no row for {scheme} ({layout}), group {group_size}, on {hw.name} ({where})"
            fix = "another method, group_size or hw, or add the row with its evidence"
            return Serving(How.refused, "", reason, "no row in qforge/plan/support_matrix.yaml", fix)
        if row.how is How.refused:
            return row
    assert linear
    if not moe or not experts:
        return linear
    worse = max(linear, experts, key=lambda answer: list(How).index(answer.how))
    evidence = "; ".join(dict.fromkeys((linear.evidence, experts.evidence)))
    return replace(worse, kernel=linear.kernel, experts_kernel=experts.kernel, evidence=evidence)


def _first(layout: str, where: str, group: int | None, layers: str, version: str) -> Serving | None:
    for row in facts()["rows"]:
        if row.fits(layout, where, group, layers, version):
            instead = (row.instead[0], row.instead[1]) if row.instead else None
            return Serving(
                How(row.how), row.kernel, row.reason, row.evidence, row.fix, instead, arithmetic=row.arithmetic
            )
    return None


def defect(engine: str, kind: str, layout: str, version: str) -> Serving | None:
    """Why `engine` (VLLM or VLLM_OMNI, of that version) fails for the model_type `kind` in this layout; none: it does not."""
    for row in facts()["defects"]:
        known = engine == row["engine"] and kind in row["models"] and layout in row["formats"]
        if known and is_of(version, row.get("versions", "")):
            return Serving(How.refused, "", row["reason"], row["evidence"], row["fix"])
    return None


def platform(hw: Hardware, runtime: Runtime) -> str:
    """What the rows call it: a capability, cpu- and its instructions, or transformers and what it has beside it."""
    if runtime.engine is Engine.transformers:
        return "transformers-bitsandbytes" if runtime.env == "bitsandbytes" else "transformers"
    if hw.vendor is Vendor.cpu:
        return f"cpu-{hw.capability or hardware.cpu().instructions}"
    return str(hw.capability)


def unservable(
    matrix: Matrix, layout: str, group_size: int | None, kernel: str, tp: int, version: str = NEWEST
) -> str | None:
    """Why `kernel` (of `serving`) cannot hold its share of the matrix on `tp` devices; none if it can."""
    if matrix.row_parallel and matrix.inputs % tp:
        return f"{matrix.inputs} inputs are not divisible by {tp} devices"
    split = tp if not matrix.row_parallel and matrix.outputs % tp == 0 else 1  # else replicated, as few KV heads are
    inputs, outputs = matrix.inputs // (tp if matrix.row_parallel else 1), matrix.outputs // split
    share = f"{inputs} inputs per device" if matrix.row_parallel and tp > 1 else f"{inputs} inputs"
    if group_size and group_size > 0 and inputs % group_size:
        return f"{share}, which group_size={group_size} does not divide"  # vLLM, distributed/utils.py:148
    block = facts()["blocks"].get(layout, {})
    if inputs % block.get("inputs", 1):
        return f"{share}, and {layout} needs multiples of {block['inputs']}"
    if (tp > 1 or matrix.expert) and outputs % block.get("outputs", 1):
        return f"{outputs} outputs per device, and {layout} needs multiples of {block['outputs']}"
    return _limits(matrix, kernel, inputs, outputs, version, per_channel=group_size == -1, tp=tp)


def _limits(
    matrix: Matrix, kernel: str, inputs: int, outputs: int, version: str, *, per_channel: bool, tp: int
) -> str | None:
    limits = facts()["kernels"].get(kernel, {})
    hidden = outputs if matrix.row_parallel else inputs
    reason = None
    for name, size in (("inputs", inputs), ("outputs", outputs), ("hidden", hidden)):
        if size % limits.get(name, 1):
            reason = f"{size} {name} per device, and {kernel} needs multiples of {limits[name]}"
    if per_channel and matrix.row_parallel and tp > 1 and not limits.get("shards_channels", True):
        reason = f"{kernel} does not split a matrix of one scale per output channel by its inputs"
    if reason and "then" in limits:
        return _limits(matrix, _then(limits, version), inputs, outputs, version, per_channel=per_channel, tp=tp)
    return reason


def first_unservable(
    matrices: Iterable[Matrix],
    layout: str,
    group_size: int | None,
    kernels: dict[bool, str],
    tp: int,
    version: str = NEWEST,
) -> tuple[Matrix, str] | None:
    """The first of the (distinct) matrices that cannot be served on `tp` devices, and why; `kernels` by `expert`."""
    for matrix in matrices:
        if reason := unservable(matrix, layout, group_size, kernels[matrix.expert], tp, version):
            return matrix, reason
    return None


def beside(kernel: str, shares: Iterable[tuple[int, int]], version: str) -> str:
    """The next kernel, for layers whose share on a device, (inputs, outputs), `kernel` does not support; empty if none."""
    limits = facts()["kernels"].get(kernel, {})
    odd = any(inputs % limits.get("inputs", 1) or outputs % limits.get("outputs", 1) for inputs, outputs in shares)
    return _then(limits, version) if odd and "then" in limits else ""


def _then(limits: dict[str, Any], version: str) -> str:
    return str(next(kernel for versions, kernel in limits["then"].items() if is_of(version, versions)))


@cache  # of few versions, asked for by every row
def is_of(version: str, versions: str) -> bool:
    """Whether a version of vLLM is one of `versions` (PEP 440); a build before a release (0.33.0rc1, 0.33.0.dev5) is of it."""
    return SpecifierSet(versions).contains(Version(version).base_version)
