"""Matrices that the format or its kernel cannot hold: a few of them stay in bf16, and where they are much of the model, that is
refused by name (feasibility.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qforge.models.architectures import FAMILIES
from qforge.models.modules import Module
from qforge.models.structure import pattern
from qforge.plan import support_matrix
from qforge.plan.feasibility import matrix
from qforge.plan.support_matrix import Serving

MOST, MOST_KNOWN = (
    0.5,
    0.1,
)  # of the weights to quantize: where a family is known here, its sizes are, and another group fits
SHOWN = 4  # kinds of names that a note has


def found(
    kind: str, layout: str, group: int | None, quantized: Sequence[Module], serving: Serving, vllm: str
) -> dict[str, str]:
    """The matrices that stay in bf16 because one device cannot hold them in this format, and why; with each, all that vLLM
    computes together with it. None where they are too much of the model to be left alone, by MOST or, where `kind` is a
    model_type of FAMILIES, MOST_KNOWN."""
    kernels = {False: serving.kernel, True: serving.experts_kernel}
    faults = {shape: support_matrix.unservable(shape, layout, group, kernels[shape.expert], 1, vllm)
              for shape in set(map(matrix, quantized))}  # fmt: skip
    wrong = {m.fused or m.name: fault for m in quantized if (fault := faults[matrix(m)])}
    misfits = {m.name: wrong[m.fused or m.name] for m in quantized if (m.fused or m.name) in wrong}
    share = sum(m.parameters for m in quantized if m.name in misfits) / max(1, sum(m.parameters for m in quantized))
    return misfits if share <= (MOST_KNOWN if kind in FAMILIES else MOST) else {}


def left_alone(tree: Sequence[Module], misfits: Mapping[str, str]) -> list[Module]:
    """The modules, with those of `misfits` as a kind that stays in bf16."""
    return [replace(m, kind="misfit") if m.name in misfits else m for m in tree]


def notes(misfits: Mapping[str, str]) -> list[str]:
    """Which matrices stay in bf16, and the reason of the first of each name."""
    if not misfits:
        return []
    reasons: dict[str, str] = {}
    for name, fault in misfits.items():
        reasons.setdefault(pattern(name), fault)
    shown = [f"{name} ({fault})" for name, fault in list(reasons.items())[:SHOWN]]
    more = f" and {len(reasons) - SHOWN} more kinds" if len(reasons) > SHOWN else ""
    return [f"matrices that do not fit the format stay in bf16 ({len(misfits)}): {', '.join(shown)}{more}"]
