"""Which parts of a model lose most in 4 bits, and which exemptions a budget of bytes buys best.

The measurement is a stage (stages/sensitivity.py). The choice is greedy: the largest loss saved per byte first, as long as
the budget lasts. If the savings of parts added up, no other choice within the budget would save more than this one and the
first part that did not fit together (Dantzig 1957). They do not quite add up: evaluate says what the choice is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from qforge import interpreters, plan, progress
from qforge.config import Job, Rule, repository_path
from qforge.exempt import waits
from qforge.formats import FORMATS
from qforge.methods.rounding import recipe
from qforge.plan import Plan
from qforge.report import terminal
from qforge.store import code, result
from qforge.units import Part, parts

if TYPE_CHECKING:
    from qforge.steps import Run

STAGE, ENV = "sensitivity", "quant"
CODE = ("stages/sensitivity.py", "units.py", "perplexity.py", *(f"methods/{n}.py" for n in ("rounding", "packing")))


@dataclass(frozen=True)
class Loss:
    """A part of the model, and KL to bf16 in nats per token."""

    part: str
    kind: str
    block: int | str
    alone: float  # with nothing else quantized
    saved: float  # by leaving it in bf16, with everything else quantized
    extra_bytes: int  # that this costs
    patterns: list[str]
    exempted: bool = False


def asked(job: Job) -> bool:
    """Whether sensitivity is to be measured: as a stage, or because a rule waits for it."""
    return STAGE in job.stages or any(map(waits, job.exempt.values()))


def nothing_else(job: Job) -> bool:
    """Whether the run ends with it, without a checkpoint."""
    return STAGE in job.stages and set(job.stages) <= {STAGE, "report"} and not job.artifact


def refuse(job: Job, planned: Plan) -> None:
    """Raises ValueError for experts that cannot be replaced one by one, and for a budget that buys nothing, or everything."""
    stacked = next((m for m in planned.modules if m.stack > 1 and m.linear), None)
    if asked(job) and stacked:
        raise ValueError(
            f"model={job.model.name}: {stacked.name} holds all experts of its layer in one tensor, whose rounding sensitivity "
            "does not measure; use exempt=boundary"
        )
    if job.sensitivity.budget_gib is None or not asked(job):
        return
    costs = [_extra(part, planned) for part in _parts(job, planned)]
    given, least = f"sensitivity.budget_gib={job.sensitivity.budget_gib}", min(costs) / 2**30
    if _budget(job) < min(costs):
        raise ValueError(
            f"{given}: the smallest {job.sensitivity.unit.value} costs {least:.2g} GiB more in bf16; use more than that"
        )
    if _budget(job) >= sum(costs):
        raise ValueError(
            f"{given}: leaving everything in bf16 costs {sum(costs) / 2**30:.2g} GiB more, so there is nothing to choose; use "
            "less, or method=bf16"
        )


def settle(run: Run, planned: Plan, source: Path, vllm: str) -> tuple[Run, Plan]:
    """Measure, where that is asked for; the waiting rules then name what was found, and the plan is made anew for `vllm`."""
    job = run.job
    if not asked(job):
        return run, planned
    found = measure(run, planned, source)
    losses = choose(_losses(job, planned, found), _budget(job))
    run.write("sensitivity.json", {**found, "all": fmean(found["all"]), "parts": [asdict(loss) for loss in losses]})
    terminal.sensitivity(found, losses)
    if not any(map(waits, job.exempt.values())):
        return run, planned
    run = run.beside(replace(job, exempt=_named(job, losses, fmean(found["all"]))), run.prefix)
    return run, plan.make(run.job, source, vllm)


def measure(run: Run, planned: Plan, source: Path) -> dict[str, Any]:
    """The stage's result and what it was measured on; found in the store, or measured."""
    job, settings = run.job, run.job.sensitivity
    content = repository_path(job.eval.texts[settings.text].path).read_bytes()
    key = {
        "recipe": recipe(job.method), "group_size": planned.group_size, "quantized": planned.quantized,
        "unit": settings.unit, "windows": settings.windows, "length": settings.length,
        "text": hashlib.sha256(content).hexdigest(), "source": run.fingerprint(source),
        "env": interpreters.identity(ENV, job), "code": code(*CODE),
    }  # fmt: skip
    where = interpreters.named(ENV, job)
    what = f"{job.method.name}, {len(_parts(job, planned))} x {settings.unit.value}"

    def build(out: Path) -> None:
        with progress.line(STAGE, what) as line:
            run.stage(STAGE, where, out, line.feed, inputs={"source": str(source)}, exempt=planned.ignore)
            line.note = what

    folder = run.get(STAGE, key, build, what)
    folder.with_suffix(".journal").unlink(missing_ok=True)
    searches = job.method.calibrated or "algorithm" in job.method.args  # ModelOpt's, for scales
    note = f"{job.method.name} looks for more; this is rounding to nearest in its format" if searches else ""
    return {
        **result(folder), "method": job.method.name, "group_size": planned.group_size, "unit": settings.unit.value,
        "text": settings.text, "windows": settings.windows, "length": settings.length, "note": note,
    }  # fmt: skip


def choose(losses: Sequence[Loss], budget: int) -> list[Loss]:
    """All of them, the largest saving per byte first; exempted is what the budget, in bytes, buys in that order."""
    chosen, left = [], budget
    for loss in sorted(losses, key=lambda each: each.saved / each.extra_bytes, reverse=True):
        buy = loss.saved > 0 and loss.extra_bytes <= left
        left -= loss.extra_bytes if buy else 0
        chosen.append(replace(loss, exempted=buy))
    return chosen


def heat(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Two heat maps for the page: by block, and by what vLLM computes as one."""
    kinds = list(dict.fromkeys(loss["kind"] for loss in found["parts"]))
    blocks = sorted({loss["block"] for loss in found["parts"]}, key=lambda block: (str(block) == block, block))
    unit = f"nats per token, over {found['tokens']:,} tokens of {found['text']}"
    maps = []
    for key, title in (("alone", "KL to bf16 with only this quantized"), ("saved", "KL saved by leaving it in bf16")):
        cells = {(loss["kind"], loss["block"]): float(f"{loss[key]:.3g}") for loss in found["parts"]}
        values = [[cells.get((kind, block)) for block in blocks] for kind in kinds]
        maps.append({"title": title, "unit": unit, "leaves": kinds, "blocks": blocks, "values": values})
    return maps


def _parts(job: Job, planned: Plan) -> list[Part]:
    quantized = set(planned.quantized)
    return parts([m for m in planned.modules if m.name in quantized], job.sensitivity.unit)


def _extra(part: Part, planned: Plan) -> int:
    return part.extra_bytes(FORMATS[planned.layout], planned.group_size)


def _budget(job: Job) -> int:
    return int((job.sensitivity.budget_gib or 0) * 2**30)


def _losses(job: Job, planned: Plan, found: dict[str, Any]) -> list[Loss]:
    whole, losses = fmean(found["all"]), []
    for part in _parts(job, planned):
        alone, without = (fmean(found["parts"][part.name][way]) for way in ("alone", "all_but"))
        losses.append(
            Loss(part.name, part.kind, part.block, alone, whole - without, _extra(part, planned), part.patterns)
        )
    return losses


def _named(job: Job, losses: list[Loss], whole: float) -> dict[str, Rule]:
    """The job's rules; what waited names what was chosen, or goes where nothing is worth it."""
    chosen = [loss for loss in losses if loss.exempted]
    if not chosen:
        terminal.warn("exempt: leaving a part in bf16 saves nothing that was measured, so none is exempted")
        return {name: rule for name, rule in job.exempt.items() if not waits(rule)}
    saved, size = [loss.saved for loss in chosen], sum(loss.extra_bytes for loss in chosen)
    why = (
        f"sensitivity: of KL {whole:.4f} to bf16 each of these {len(chosen)} saves {min(saved):.4f} to {max(saved):.4f} by "
        f"itself; {size / 1e6:.1f} MB of a budget of {_budget(job) / 1e6:.1f}"
    )
    names = [pattern for loss in chosen for pattern in loss.patterns]
    return {name: replace(rule, match=names, why=why) if waits(rule) else rule for name, rule in job.exempt.items()}
