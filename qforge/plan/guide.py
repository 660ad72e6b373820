"""The decision guide, `method=auto`: what would work on this hardware, and which to take for which goal.

Measured rows decide where there are any for the hardware's architecture and of the vLLM that will serve: of methods that are
nearly as fast the one that loses least. Rows of another vLLM are shown and decide nothing, since it may take other kernels.
Without rows the rule decides, and says so. The rule: 4-bit weights are the smallest; they are read fastest, so a single stream
gains; but a weight-only kernel computes in bf16 and has to unpack, so many streams gain only from arithmetic in fewer bits,
such as FP8's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

from qforge.config.job import Job
from qforge.config.places import option_files
from qforge.models.formats import FORMATS
from qforge.plan import evidence, plan, support_matrix
from qforge.plan.evidence import Measurement
from qforge.plan.plan import Plan

AUTO = "auto"
MANY = 64  # streams at which the rule for throughput speaks
SAME = 0.99  # of the best: a difference that decides nothing
NEARLY = 0.9  # of the best: a difference that less loss of quality outweighs


@dataclass(frozen=True)
class Choice:
    """One method on one hardware: its plan, or why there is none, and what was measured of it there."""

    method: str
    hw: str
    plan: Plan | None
    refusal: str
    measurements: list[Measurement]
    calibrated: bool = False  # whether the method looks at data
    judged: bool = False  # whether results/ has a row of the method, on whatever hardware
    loss: float | None = (
        None  # of perplexity in percent, of the text on which the method lost most; the median of its rows
    )
    loss_of: str = ""  # the model it was measured on
    older: Sequence[Measurement] = ()  # of another vLLM than the one that will serve

    def summary(self) -> dict[str, Any]:
        """For guide.json."""
        plan = self.plan
        planned = {"serving": plan.serving, "bytes": plan.bytes, "bits_per_weight": plan.bits_per_weight,
                   "estimates": plan.estimates} if plan else None  # fmt: skip
        return {
            "method": self.method,
            "hw": self.hw,
            "plan": planned,
            "refused": self.refusal,
            "measured": self.measurements,
            "measured_with_another_vllm": self.older,
            "perplexity_lost_percent": self.loss,
        }

    def speed(self, streams: int, least: bool = False) -> float | None:
        """Measured tokens/s over bf16's; the median of the rows with this number of streams, or where none has it, of all rows,
        each at the number nearest to it.

        `least`: the slowest repeat over bf16's fastest.
        """
        rows = [m.least if least else m.speed for m in self.measurements if m.speed]
        there = [row for row in rows if streams in row] or rows
        ratios = [row[min(row, key=lambda s: abs(s - streams))] for row in there]
        return median(ratios) if ratios else None

    def bound(self, many: bool) -> float | None:
        """The bound on tokens/s over bf16's: of one stream, or of the arithmetic, which many streams come to."""
        assert self.plan
        estimates = self.plan.estimates
        if many:
            return estimates.arithmetic
        if estimates.speed is None or estimates.bf16_speed is None:
            return None
        return estimates.speed.decode_1 / estimates.bf16_speed.decode_1


@dataclass(frozen=True)
class Advice:
    """What to take for a goal, and why."""

    hw: str
    goal: str
    method: str
    reason: str


def choices(again: Callable[..., Job], hardware: Sequence[str], model: Path | None) -> list[Choice]:
    """Every method of conf/method/ planned on every hardware; `again` composes the job with other choices."""
    judged = {row.method for row in evidence.judged()}
    return [_choice(method, job, model, method in judged) for method, job in jobs(again, hardware)]


def jobs(again: Callable[..., Job], hardware: Sequence[str]) -> Iterator[tuple[str, Job]]:
    """Every method that is not archived and needs no measurement to be planned, by name, on every hardware.

    Each option is composed once: what a hardware sets (itself, its runtime) is the same for all methods, and is joined to each.
    """
    methods = sorted(option_files("method").keys() - {AUTO})
    by_method = {method: again(f"method={method}", f"hw={hardware[0]}", "plan_only=true") for method in methods}
    first = by_method[methods[0]]
    for hw in hardware:
        there = first if hw == hardware[0] else again(f"method={methods[0]}", f"hw={hw}", "plan_only=true")
        values = {
            f.name: getattr(there, f.name) for f in fields(Job) if getattr(there, f.name) != getattr(first, f.name)
        }
        yield from (
            (m, replace(job, **values))
            for m, job in by_method.items()
            if not (job.method.instead or job.method.online or job.method.candidates)
        )


def _choice(method: str, job: Job, model: Path | None, judged: bool) -> Choice:
    if not FORMATS[job.method.format].group_sizes:  # group_size=64 is for those that have groups
        job = replace(job, group_size=None)
    try:
        planned = plan.make(job, model)
    except ValueError as refusal:
        return Choice(method, job.hw.name, None, str(refusal), [])
    return _with_evidence(Choice(method, job.hw.name, planned, "", [], job.method.calibrated, judged), job)


def _with_evidence(choice: Choice, job: Job) -> Choice:
    """With what was measured on such hardware: the speed of its layout, and what the method itself lost."""
    planned = choice.plan
    assert planned
    experts = any(m.kind == "expert" for m in planned.modules)
    rows = evidence.quantized_to(evidence.rows(job.hw), None)
    current = evidence.of_version(rows, support_matrix.newest(job.hw))

    def speeds(of: Sequence[Measurement]) -> list[Measurement]:
        near = evidence.nearest([m for m in of if m.speed], planned.parameters, experts)
        return evidence.of_layout(near, planned.layout)

    near = evidence.nearest([m for m in current if m.perplexity], planned.parameters, experts)
    lost = [max(m.perplexity.values()) for m in evidence.of_method(near, choice.method)]
    return replace(
        choice, measurements=speeds(current), older=speeds([m for m in rows if m not in current]),
        loss=median(lost) if lost else None, loss_of=near[0].model if lost else "",
    )  # fmt: skip


def advice(choices: Sequence[Choice], hardware: Sequence[str]) -> list[Advice]:
    """For each hardware the best method by goal; for several, what runs on all of them first."""
    served = [c for c in choices if c.plan and not (c.plan.emulated or c.plan.simulated)]
    everywhere = {c.method for c in served if {o.hw for o in served if o.method == c.method} >= set(hardware)}
    advised = []
    names = ", ".join(sorted(everywhere - {"bf16"}) or sorted(everywhere))
    if len(hardware) > 1 and names:
        advised.append(Advice(" + ".join(hardware), "one checkpoint for all", names, "served on every one of them"))
    for hw in hardware:
        here = [c for c in served if c.hw == hw]
        if here:
            advised += [_memory(here), _fast(here, "a single stream", 1), _fast(here, "many streams", MANY)]
    return advised


def _best(here: Sequence[Choice], values: Mapping[str, float]) -> str:
    """The method that was measured to lose least of those with NEARLY the largest value. Where no loss was measured, of those
    within SAME of it: one that looks at data, and of these one that was ever judged."""
    top = max(values.values())
    lost = {c.method: c.loss for c in here if c.loss is not None and values.get(c.method, 0) >= NEARLY * top}
    if lost:
        return min(lost, key=lambda method: (lost[method], -values[method]))
    equal = [c for c in here if values.get(c.method, 0) >= SAME * top]
    return max(equal, key=lambda c: (c.calibrated, c.judged, values[c.method])).method


def _losses(here: Sequence[Choice]) -> str:
    """What the methods were measured to lose, for people; empty where nothing was."""
    known = sorted((c.loss, c.method, c.loss_of) for c in here if c.loss is not None)
    of = ", ".join(sorted({model for _, _, model in known}))
    figures = ", ".join(f"{method} {loss:.1f} %" for loss, method, _ in known)
    return f"; perplexity lost on {of}: {figures}" if known else ""


def _memory(here: Sequence[Choice]) -> Advice:
    method = _best(here, {c.method: 1 / c.plan.bytes for c in here if c.plan})
    best = next(c for c in here if c.method == method)
    assert best.plan
    return Advice(
        best.hw, "memory", best.method,
        f"{best.plan.bytes / 2**30:.2f} GiB of weights, {best.plan.bytes / best.plan.bf16_bytes:.2f} of bf16's",
    )  # fmt: skip


def _fast(here: Sequence[Choice], goal: str, streams: int) -> Advice:
    """Measured rows first; where none is faster than bf16, the bound of what was not measured; else bf16."""
    ratios = {c.method: ratio for c in here if (ratio := c.speed(streams)) is not None}
    figures = ", ".join(f"{method} {ratio:.2f}" for method, ratio in sorted(ratios.items(), key=lambda i: -i[1]))
    of = ", ".join(sorted({m.model for c in here for m in c.measurements}))
    surely = {
        c.method: ratios[c.method] for c in here if (c.speed(streams, least=True) or 0) > 1
    }  # beyond the repeats' spread
    if surely:
        best = _best(here, surely)
        return Advice(here[0].hw, goal, best, f"measured on {of}, bf16 = 1: {figures}{_losses(here)}")
    bounds = {
        c.method: b for c in here if c.method not in ratios and (b := c.bound(streams == MANY)) is not None and b > 1.05
    }
    detail = f"; measured on {of}, bf16 = 1: {figures}" if ratios else ""
    if bounds:
        method = _best(here, bounds)
        why = "by rule, not measured: at most" if streams == 1 else "by rule, not measured: arithmetic at most"
        return Advice(here[0].hw, goal, method, f"{why} {bounds[method]:.1f} times bf16's{detail}")
    why = (
        f"nothing measured on {of} is faster beyond its interval: {figures}"
        if ratios
        else "by rule: weight-only kernels compute in bf16"
    )
    return Advice(here[0].hw, goal, "bf16", why)
