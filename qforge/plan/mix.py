"""Several formats in one checkpoint: which matrix gets which, and what each format's part of the model is planned as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qforge.config.job import Job
from qforge.config.method import BF16
from qforge.models.modules import Module
from qforge.plan.exemptions import last_block, named

KINDS = ("attention", "mixer", "mlp", "expert", "shared_expert")  # of matrices; a model need not have all of them


def assigned(formats: Mapping[str, str], modules: Sequence[Module]) -> dict[str, str]:
    """The matrices that method.formats (`formats`) names, each with its last word: a method that streams, or bf16.

    Raises ValueError for a part that names nothing, or nothing that may be quantized, and for formats that split what vLLM
    computes as one matrix.
    """
    given: dict[str, str] = {}
    last = last_block(modules)
    for part, method in formats.items():
        given |= dict.fromkeys(_named(part, modules, last), method)
    _refuse_split(given, modules)
    return given


def _named(part: str, modules: Sequence[Module], last: int) -> list[str]:
    key = f"method.formats.{part}"
    if part in KINDS:
        return [m.name for m in modules if m.kind == part]
    pattern = part if ":" in part or "." in part else f"role:{part}"
    found = named(modules, key, pattern, last, tied=not any(m.kind == "head" for m in modules))
    linear = [m.name for m in found if m.linear]
    if not linear:
        raise ValueError(f"{key}: {found[0].name} stays in bf16: {found[0].kept}; leave it out")
    return linear


def _refuse_split(given: Mapping[str, str], modules: Sequence[Module]) -> None:
    """vLLM takes the format of the first part of a fused matrix for all of it (0.32 compressed_tensors/utils.py:133), and
    refuses experts of a layer in several (compressed_tensors_moe.py:50)."""
    first: dict[str, Module] = {}
    for module in modules:
        if not module.linear or not module.fused:
            continue
        other = first.setdefault(module.fused, module)
        formats = [given.get(m.name, BF16) for m in (other, module)]
        if formats[0] != formats[1]:
            what = "all experts of a layer" if module.kind == "expert" else f"{other.leaf} and {module.leaf}"
            raise ValueError(
                f"method.formats: {other.name} would be in {formats[0]} and {module.name} in {formats[1]}; vLLM computes "
                f"{what} as one; use one format for them"
            )


def jobs(job: Job, given: Mapping[str, str], quantized: Sequence[Module]) -> dict[str, tuple[Job, list[Module]]]:
    """By the value in method.formats the job that would make its part alone, and the matrices of that part."""
    parts: dict[str, tuple[Job, list[Module]]] = {}
    for module in quantized:
        value = given[module.name]
        if value not in parts:
            scheme = job.method.schemes[value]
            alone = replace(
                job.method, name=value.partition(":")[0], format=scheme.format, group_size=scheme.group_size,
                args=scheme.args, formats={}, schemes={},
            )  # fmt: skip
            parts[value] = (replace(job, method=alone, group_size=scheme.group_size), [])
        parts[value][1].append(module)
    return parts
