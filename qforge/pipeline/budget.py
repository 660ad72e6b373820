"""The formats of a checkpoint of a given size: measure what each part loses in each of them, then choose."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.job import Job
from qforge.config.method import BF16
from qforge.config.places import given_path
from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.json_files import read_json, write_json
from qforge.methods.rounding import recipe
from qforge.pipeline import unpack
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.plan import budget, mix, plan
from qforge.plan.budget import Options
from qforge.plan.plan import Plan
from qforge.report import terminal
from qforge.store.results import code, result

STAGE, SOLVER = "losses", "allocation"
POINTS = 16  # of the curve


@dataclass(frozen=True)
class Losses:
    """KL to bf16 in nats per token: of each part in each format, and of the whole model in each."""

    parts: list[dict[str, float]]
    whole: dict[str, float]
    tokens: int

    def of(self, chosen: list[str]) -> float:
        """Of a choice, where the losses of parts add up."""
        return sum(losses[name] for losses, name in zip(self.parts, chosen, strict=True))


def first(run: Run, here: Path | None) -> Run:
    """The run whose formats are the smallest ones, until the measurement has chosen: what can be planned and refused."""
    method = run.job.method
    if method.candidates and method.formats and not run.job.artifact:
        raise ValueError(f"method.formats method={method.name}: it chooses them; leave them out, or use method=mixed")
    if not budget.wanted(run.job):
        return run
    found = budget.options(run.job, here)
    budget.refuse_size(run.job, found)
    return run.beside(_with(run.job, budget.smallest(found)), run.prefix)


def notes(job: Job) -> list[str]:
    """What the plan says before the measurement."""
    if not job.method.candidates:
        return []
    return [
        f"method.bits={job.method.bits}: this is the smallest that {', '.join(job.method.candidates)} come to; what each part "
        "of the model loses in each of them is measured first, and the size spent where it saves most"
    ]


def settle(run: Run, planned: Plan, source: Path, vllm: str) -> tuple[Run, Plan]:
    """Measure and choose, where method.candidates ask for it; budget.json. The plan is made anew for `vllm`."""
    if not run.job.method.candidates:
        return run, planned
    job = _with(run.job, {})
    found = budget.options(job, source, vllm)
    losses = _losses(run.beside(job, run.prefix), found, source)
    assert job.method.bits
    size = int(job.method.bits * found.parameters / 8)
    steps = [found.smallest + (found.largest - found.smallest) * n // (POINTS - 1) for n in range(POINTS)]
    chosen, *curve = _solved(run, found, losses, [size, *steps])
    uniform = [
        {"format": name, "bits": made.bits_per_weight, "kl": losses.whole[name], "added": losses.of(_only(found, name))}
        for name, made in found.plans.items()
    ]
    boundary = [
        {"format": name, **_point(found, losses, kept)} for name in found.plans if (kept := _boundary(found, name))
    ]
    said = {
        "bits": job.method.bits, "candidates": job.method.candidates, "unit": job.sensitivity.unit.value,
        "tokens": losses.tokens, "text": job.sensitivity.text, "chosen": _point(found, losses, chosen),
        "curve": [_point(found, losses, point) for point in curve], "uniform": uniform,
        "boundary": boundary,
        "parts": [
            {"part": part.name, "kind": part.kind, "block": part.block, "format": name, "loss": known, "bytes": sizes}
            for part, name, known, sizes in zip(found.parts, chosen, losses.parts, found.bytes, strict=True)
        ],
    }  # fmt: skip
    run.write("budget.json", said)
    terminal.budget(said)
    run = run.beside(_with(job, found.formats(chosen)), run.prefix)
    return run, plan.make(run.job, source, vllm)


def _with(job: Job, formats: dict[str, str]) -> Job:
    return replace(job, method=replace(job.method, formats=formats))


def _only(found: Options, name: str) -> list[str]:
    """Everything in one format, as far as that holds it."""
    return [name if name in sizes else BF16 for sizes in found.bytes]


def _boundary(found: Options, name: str) -> list[str]:
    """One format, and the first and the last block in bf16, as exempt=boundary has them; none where bf16 is no candidate."""
    blocks = {part.block for part in found.parts if isinstance(part.block, int)}
    if not blocks or any(BF16 not in sizes for sizes in found.bytes):
        return []
    ends = (min(blocks), max(blocks))
    only = _only(found, name)
    return [BF16 if part.block in ends else each for part, each in zip(found.parts, only, strict=True)]


def _point(found: Options, losses: Losses, chosen: list[str]) -> dict[str, Any]:
    size = found.rest + sum(sizes[name] for sizes, name in zip(found.bytes, chosen, strict=True))
    return {"bits": found.bits(size), "bytes": size, "added": losses.of(chosen)}


def _losses(run: Run, found: Options, source: Path) -> Losses:
    """By format from the store, or measured now."""
    known = {name: _measured(run, made, source, name) for name, made in found.plans.items()}
    parts = [
        {BF16: 0.0} | {name: _mean(said["parts"][part.name]) for name, said in known.items() if name in sizes}
        for part, sizes in zip(found.parts, found.bytes, strict=True)
    ]
    tokens = next(iter(known.values()))["tokens"]
    return Losses(parts, {name: _mean(said["all"]) for name, said in known.items()}, tokens)


def _mean(divergences: list[float]) -> float:
    """Of windows; a divergence below zero is rounding."""
    return max(0.0, fmean(divergences))


def _measured(run: Run, made: Plan, source: Path, name: str) -> dict[str, Any]:
    settings = run.job.sensitivity
    alone, _ = mix.jobs(run.job, made.given, made.shares[0].modules)[name]
    content = given_path(run.job.eval.texts[settings.text].path).read_bytes()
    key = {
        "recipe": recipe(alone.method), "group_size": alone.group_size, "quantized": made.quantized,
        "job": decided_by(run.job, "sensitivity"), "text": hashlib.sha256(content).hexdigest(),
        "source": run.fingerprint(source), "env": interpreters.identity(QUANT_ENV, run.job),
        "code": code("qforge.stages.losses"),
    }  # fmt: skip
    plain = source if run.store.find(STAGE, key) else unpack.plain(run, source)

    def build(out: Path) -> None:
        with progress_line(STAGE, name) as line:
            where = interpreters.named(QUANT_ENV, run.job)
            inputs = {"source": str(plain)}
            run.beside(alone, f"{name.replace(':', '-')}-").stage(
                STAGE, where, out, line.feed, inputs=inputs, exempt=made.ignore
            )
            line.note = name

    folder = run.get(STAGE, key, build, name)
    folder.with_suffix(".journal").unlink(missing_ok=True)
    return result(folder)


def _solved(run: Run, found: Options, losses: Losses, sizes: list[int]) -> list[list[str]]:
    """For each size of the whole checkpoint the format of each part."""
    parts = [
        {name: [nbytes, known[name]] for name, nbytes in choice.items()}
        for choice, known in zip(found.bytes, losses.parts, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder, progress_line(SOLVER, f"{len(parts)} parts") as line:
        problem, out = Path(folder, "problem.json"), Path(folder, "out")
        out.mkdir()
        write_json(problem, {"parts": parts, "sizes": [size - found.rest for size in sizes]})
        where = interpreters.named(QUANT_ENV, run.job)
        run.stage(SOLVER, where, out, line.feed, inputs={"problem": str(problem)})
        line.note = f"{len(parts)} parts"
        chosen: list[list[str]] = read_json(out / "result.json")["chosen"]
    return chosen
