"""What became of the parts of a mix: their formats, their kernels as planned, and whether the server's log names them."""

from __future__ import annotations

import re
from typing import Any

from qforge.config.job import Job
from qforge.plan.plan import Plan

KERNEL = re.compile(r"\w+Kernel\b")


def formats(job: Job, plan: Plan, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each format of a mix; nothing for other plans. `logged`: whether the log names the planned kernel of linear
    layers; none where no log names any, or the plan names none."""
    if not plan.mixed:
        return []
    said = measured["serve"].get("kernels") or []
    return [
        {**share, "parts": _named(job, share["method"]), "logged": _logged(share["serving"].kernel, said)}
        for share in plan.formats
    ]


def _named(job: Job, method: str) -> list[str]:
    """The entries of method.formats that give a part of the model this format."""
    return [part for part, value in job.method.formats.items() if value == method]


def _logged(kernel: str, said: list[str]) -> bool | None:
    named = KERNEL.fullmatch(kernel)
    return any(kernel in line for line in said) if named and said else None
