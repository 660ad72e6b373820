"""What the check of a proposal says, as Markdown."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from qforge.config.job import Job
from qforge.experiments.proposal import Proposal
from qforge.json_files import read_json, to_json
from qforge.judge.goals import judge_again
from qforge.models.formats import FORMATS
from qforge.plan import evidence, support_matrix
from qforge.plan.evidence import Measurement
from qforge.plan.plan import Plan
from qforge.report.plan_table import size

SHOWN = 4  # measured rows


def markdown(proposal: Proposal) -> str:
    """The whole part of one proposal that is not refused."""
    job, experiment = proposal.job, proposal.experiment
    command = f"python run.py {shlex.join(proposal.overrides)}"
    changed = changes(proposal.before, job)
    base = f"experiment={proposal.base}" if proposal.base else "the defaults"
    return "\n".join([
        f"## {proposal.name}: {experiment.name}", "",
        f"- asks: {experiment.question}",
        f"- expects: {experiment.expect}",
        f"- is run by `{command}`", "",
        f"**Differs from {base}** in {len(changed)} lines", "", "```diff", *changed, "```", "",
        f"**Plan** for {job.model.name} on {job.hw.name}", "", *_listed(_plan(proposal)), "",
        "**Nearest measured rows**", "", *_listed(_measured(proposal)), "",
        "**Still to show**", "", *_listed(_owed(proposal, command)), "",
    ])  # fmt: skip


def several(name: str, names: Sequence[str]) -> str:
    """A list of experiments."""
    command = f"python run.py --multirun experiment={name}"
    return f"## {name}\n\n- a list of {len(names)}: {', '.join(names)}\n- is run by `{command}`\n"


def refused(name: str, reason: str) -> str:
    """Why a file must not become an experiment."""
    return f"## {name}\n\n**Refused**\n\n```\n{reason.strip()}\n```\n"


def changes(before: Job, after: Job) -> list[str]:
    """What differs in the resolved jobs, key by key, as lines of a diff. What an experiment asks is no difference."""
    old, new = dict(_flat(json.loads(to_json(before)))), dict(_flat(json.loads(to_json(after))))
    lines = []
    for key in sorted(old.keys() | new.keys()):
        if key.startswith("experiment") or old.get(key, ...) == new.get(key, ...):
            continue
        lines += [f"{sign} {key}: {json.dumps(side[key])}" for sign, side in (("-", old), ("+", new)) if key in side]
    return lines


def nearest(planned: Plan, job: Job) -> list[Measurement]:
    """Rows of the same scheme, those first that share the method, then the hardware, the group and the model's size."""
    experts = any(m.kind == "expert" for m in planned.modules)

    def distance(m: Measurement) -> tuple[bool, bool, bool, bool, float]:
        apart = abs(math.log(m.parameters / planned.parameters))
        hw, group = evidence.alike(m.hw, job.hw), m.group_size == planned.group_size
        return (m.method != planned.method, m.experts != experts, not hw, not group, apart)

    scheme = FORMATS[planned.layout].scheme
    rows = evidence.quantized_to(evidence.judged(), job.method.online)
    return sorted((m for m in rows if FORMATS[m.layout].scheme == scheme), key=distance)[:SHOWN]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _listed(lines: Iterator[str]) -> Iterator[str]:
    return (f"- {line}" for line in lines)


def _measured(proposal: Proposal) -> Iterator[str]:
    rows = nearest(proposal.plan, proposal.job)
    for row in rows:
        again = judge_again(read_json(evidence.RESULTS / row.file), proposal.job.goals)
        yield f"{row.method}: {again['says']}. {row.numbers} ({row.source})"
    if not rows:
        yield f"no row of {FORMATS[proposal.plan.layout].scheme} was judged yet"


def _plan(proposal: Proposal) -> Iterator[str]:
    planned, serving = proposal.plan, proposal.plan.serving
    saved = f", bf16 {size(planned.bf16_bytes)}" if planned.quantized else ""
    yield f"{size(planned.bytes)}{saved}, {planned.bits_per_weight:.2f} bits per weight"
    yield ", ".join(part for part in (serving.how.value, support_matrix.kernels(serving), serving.reason) if part)
    for rule, hits in planned.rules.items():
        if hits.changes:  # the others are among the notes
            yield f"exempt.{rule}: {len(hits.changes)} kept in bf16, {hits.why}"
    yield from planned.notes
    for twin in proposal.twins:
        yield f"the same checkpoint as experiment={twin}, as expected: it runs once"


def _owed(proposal: Proposal, command: str) -> Iterator[str]:
    job = proposal.job
    row = f"results/{job.model.name}-{proposal.name}-{job.hw.name}.json"
    yield f"`{command}` on {job.hw.name}, eval=full bench=full where it sets no others; its row.json as `{row}`"
    if job.method.function is None:
        return
    yield "both texts and every task with their intervals, against bf16 measured in the same run"
    yield "less loss at no more bits per weight, or more tokens/s at no more loss, than every row of its size and hardware"
    if proposal.plan.emulated or proposal.plan.simulated:
        yield "quality only: nothing serves it there, so its speed is no result"
    yield "or that its expectation was wrong, beyond the interval: a negative result is kept as well"
