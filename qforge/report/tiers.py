"""What a plan says already of bounds in absolute numbers: a gate's or goal's memory of weights, and tokens/s of one stream."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from qforge.config.job import Criterion, Gate, Job
from qforge.plan.plan import Plan

MISSED = ("missed", "red")


def tiers(planned: Plan, job: Job) -> Iterator[tuple[str, Text]]:
    """A line for the gate and for each goal that has such bounds, under its name. What weights take is known; a speed that
    the hardware cannot exceed is within reach, no more."""
    if "judge" not in job.stages or job.is_original:
        return
    gates = {f"gate {job.gate.name}": job.gate} if job.gate.name not in job.goals else {}
    gates |= {f"goal {name}": goal for name, goal in job.goals.items()}
    for name, gate in gates.items():
        if parts := list(_parts(planned, gate)):
            pieces = [piece for part in parts for piece in ("; ", *part)]
            yield name, Text.assemble(*pieces[1:])


def _parts(planned: Plan, gate: Gate) -> Iterator[list[str | tuple[str, str]]]:
    memory, speed = planned.estimates.memory, planned.estimates.speed
    weights = planned.bytes / 1e9 if planned.simulated else memory.weights * memory.devices * 2**30 / 1e9
    for criterion in gate.criteria.values():
        if criterion.metric == "weights_gb" and criterion.at_most is not None:
            held = ("held", "green") if weights <= criterion.at_most else MISSED
            yield [f"weights {weights:.1f} GB of at most {criterion.at_most:g}: ", held]
        elif speed and _one_stream(criterion) and criterion.at_least is not None:
            reach = ("within reach", "green") if speed.decode_1 >= criterion.at_least else MISSED
            yield [f"1 stream at most {speed.decode_1:,.0f} tokens/s of at least {criterion.at_least:g}: ", reach]


def _one_stream(criterion: Criterion) -> bool:
    return criterion.metric == "tokens_per_second" and criterion.concurrency == 1
