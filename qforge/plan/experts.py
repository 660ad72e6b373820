"""Whether calibration reaches every expert of a mixture: how many tokens each was sent, and the floor that gates.

The floor is on what the routers send, also where the library shows every token to every expert, as llm-compressor does. There
a floor on what is shown could refuse nothing, and what the others' tokens teach an expert is not what it will be asked: its
scales and its least squares then fit inputs that it never gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from statistics import median
from typing import Any

from qforge.config.calibration import Calibration
from qforge.config.job import Job
from qforge.models.modules import Module

SHOWN = 3  # starved experts that a message names
ANYWAY = "calib.expert_floor=0 to continue anyway"


def number(config: Mapping[str, Any]) -> int:
    """Of a layer's experts, by the language model's config.json; 0 where there are none."""
    return int(config.get("num_experts") or config.get("n_routed_experts") or config.get("num_local_experts") or 0)


def refuse_few(job: Job, config: Mapping[str, Any], quantized: Sequence[Module]) -> None:
    """Refuse a floor that not even routers that choose evenly could reach, and counting on several GPUs.

    `config`: the language model's.
    """
    calib, count, chosen = job.calib, number(config), config.get("num_experts_per_tok")
    if not job.method.calibrated or not any(m.kind == "expert" for m in quantized):
        return
    if calib.devices > 1:
        raise ValueError(
            f"calib.devices={calib.devices}: the tokens sent to each expert are counted on one GPU only; use calib.devices=1"
        )
    if not chosen:
        return
    share = calib.sequences * calib.length * chosen / count
    if share < calib.expert_floor:
        enough = ceil(calib.sequences * calib.expert_floor / share)
        raise ValueError(
            f"calib.expert_floor={calib.expert_floor}: {calib.sequences} sequences of {calib.length} tokens, each sent to "
            f"{chosen} of {count} experts, are {share:.0f} per expert; use calib.sequences={enough} or more (several times "
            f"that, since routers do not choose evenly), or {ANYWAY}"
        )


def refuse_starved(calib: Calibration, counted: Mapping[str, Any] | None) -> None:
    """Refuse a checkpoint whose experts were sent fewer tokens than the floor. `counted`: quantize.json's experts."""
    if counted is None:
        return
    tokens = {f"{block}.experts.{n}": t for block, sent in counted["sent"].items() for n, t in enumerate(sent)}
    starved = [f"{name} ({count})" for name, count in tokens.items() if count < calib.expert_floor]
    if starved:
        more = f" and {len(starved) - SHOWN} more" if len(starved) > SHOWN else ""
        raise ValueError(
            f"calib.expert_floor={calib.expert_floor}: of {counted['tokens']} tokens of calibration fewer than that were sent "
            f"to {len(starved)} of {len(tokens)} experts: {', '.join(starved[:SHOWN])}{more}; nothing is exported. Use more "
            f"sequences (calib.sequences), another text (calib.texts), or {ANYWAY}"
        )


def summary(calib: Calibration, counted: Mapping[str, Any]) -> dict[str, Any]:
    """For people: least and median of what an expert was sent, and how many starved, by the usual floor where there is none."""
    tokens = [t for sent in counted["sent"].values() for t in sent]
    floor = calib.expert_floor or Calibration.expert_floor
    least, middle, starved = min(tokens), median(tokens), sum(t < floor for t in tokens)
    sentence = (
        f"{starved} of {len(tokens)} experts were sent fewer than {floor} of {counted['tokens']} tokens of calibration "
        f"(least {least}, median {middle:g})"
    )
    return {"experts": len(tokens), "least": least, "median": middle, "starved": starved, "floor": floor, "said": sentence,
            "tokens": counted["tokens"], "shown": counted["shown"]}  # fmt: skip
