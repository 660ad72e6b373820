"""The ladder: spend a little more, rung by rung, until the gate accepts the quality. What comes next, and what it gained.

The rungs are data, conf/hydra/sweeper/ladder.yaml; hydra_plugins/qforge/ladder.py launches them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qforge.config.calibration import Calibration
from qforge.config.job import Job
from qforge.json_files import read_json
from qforge.models import formats
from qforge.pipeline import fetch, structure
from qforge.pipeline.run import Run
from qforge.plan import plan
from qforge.plan.exemptions import waits
from qforge.plan.plan import Plan
from qforge.sweeps.step import Step, key_of, replaced, row_of
from qforge.sweeps.stopping import QUALITY, End, end_of, numbers

JUDGING = {"evaluate", "judge"}  # the stages without which there is no verdict
WORDS = {  # values derived from the rung below
    "group_size": re.compile("smaller"),
    "calib.sequences": re.compile(r"x(\d+)"),
    "sensitivity.budget_gib": re.compile(r"(\d+)%"),
}


@dataclass(frozen=True)
class Rung:
    """What a rung sets, by key. A rung keeps what those below it have set."""

    name: str
    why: str
    overrides: dict[str, Any]

    @property
    def plain(self) -> dict[str, str]:
        """What is set as it stands there, in Hydra's spelling."""
        overrides = {key: value for key, value in self.overrides.items() if key not in self.words}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in overrides.items()}

    @property
    def words(self) -> dict[str, re.Match[str]]:
        """What is derived from the rung below."""
        matches = {
            key: word.fullmatch(str(self.overrides[key])) for key, word in WORDS.items() if key in self.overrides
        }
        return {key: match for key, match in matches.items() if match}


class Skip(Exception):
    """Why a rung needs no job."""


class Climb:
    """One ladder, climbed by one combination of what the user swept."""

    def __init__(
        self, start: list[str], rungs: Sequence[Rung], job_of: Callable[[list[str]], Job], folder: Path
    ) -> None:
        self.start, self.job_of, self.folder = start, job_of, folder
        self.steps: list[Step] = []
        self.end: End | None = None
        refuse(first := job_of(replaced(start, rungs[0].plain)))
        # where the KV cache is in bf16 from the start there is no rung for it
        self._left = [rung for rung in rungs if not (first.kv.plain and "kv" in rung.plain)]
        self._overrides = start
        self._seen: list[tuple[str, Any]] = []  # rungs by what decides their checkpoint

    def next(self) -> Step | None:
        """The next rung that leads to another checkpoint; none where the climb has ended."""
        while self._left and not self.end:
            rung = self._left.pop(0)
            step = Step(rung.name, rung.why)
            self.steps.append(step)
            try:
                step.overrides = self._set(rung)
            except Skip as why:
                step.skipped = str(why)
                continue
            self._overrides = step.overrides
            return step
        judged = any(step.row.get("criteria") for step in self.steps)
        self.end = self.end or End("top", "no rung was accepted" if judged else "no rung was judged")
        return None

    def record(self, step: Step) -> None:
        """Read how the job of the step ended, and decide whether to climb on."""
        step.row = row_of(step)
        self.end = end_of(step.row)

    @property
    def best(self) -> Step | None:
        """The accepted rung, or the one with the least loss."""
        if self.end and self.end.outcome == "accepted":
            return self.steps[-1]
        return min(
            (s for s in self.steps if "loss" in numbers(s.row)), key=lambda s: numbers(s.row)["loss"], default=None
        )

    def _set(self, rung: Rung) -> list[str]:
        """The overrides of a rung. Raises Skip where it comes to the checkpoint of a rung below."""
        below = self.job_of(self._overrides)
        if "kv" in rung.plain and any((step.row.get("cache") or {}).get("verdict") == "accept" for step in self.steps):
            raise Skip(f"bf16 weights pass with kv={below.kv.name}")
        words = {key: str(self._derived(key, word, below)) for key, word in rung.words.items()}
        overrides = replaced(self._overrides, rung.plain | words)
        job = self.job_of(overrides)
        planned = self._plan(job)
        if isinstance(planned, Plan):
            made = identity(job, planned)
            if same := next((name for name, other in self._seen if other == made), None):
                raise Skip(f"comes to the same checkpoint as {same}")
            self._seen.append((rung.name, made))
        return overrides

    def _derived(self, key: str, word: re.Match[str], below: Job) -> int | float:
        if key == "group_size":
            return self._smaller_group(below)
        if key == "calib.sequences":
            return self._more_sequences(int(word[1]), below)
        return self._budget(int(word[1]), below)

    def _smaller_group(self, below: Job) -> int:
        """The next smaller group of the method's format that can be planned. Raises Skip where there is none."""
        now = below.group_size if below.group_size is not None else below.method.group_size
        sizes = sorted(size for size in formats.FORMATS[below.method.format].group_sizes if size > 0)
        why = f"{below.method.name} has no group below {now}" if sizes else f"{below.method.name} has no groups"
        for size in reversed([size for size in sizes if now == -1 or size < (now or 0)]):
            planned = self._plan(self.job_of(replaced(self._overrides, {"group_size": str(size)})))
            if isinstance(planned, Plan):
                return size
            why = planned
        raise Skip(why)

    def _more_sequences(self, times: int, below: Job) -> int:
        """Times as many calibration sequences, as far as the texts go. Raises Skip where there are no more."""
        if not below.method.calibrated:
            raise Skip(f"{below.method.name} uses no text")
        most = self._most_sequences()
        if most is not None and most <= below.calib.sequences:
            raise Skip(f"calib.sequences={below.calib.sequences} is all that the texts provide")
        sequences = times * below.calib.sequences
        return sequences if most is None else min(sequences, most)

    def _budget(self, percent: int, below: Job) -> float:
        """Of what quantizing everything saves, in GiB. Raises Skip where nothing can be planned."""
        planned = self._plan(replace(below, exempt={}))
        if isinstance(planned, str):
            raise Skip(planned)
        return float(f"{percent / 100 * (planned.bf16_bytes - planned.bytes) / 2**30:.3g}")

    def _most_sequences(self) -> int | None:
        """How many calibration sequences the texts give, if a rung has counted them."""
        for step in reversed(self.steps):
            if step.folder and (file := step.folder / "calibrate.json").is_file():
                texts = read_json(file)["texts"].values()
                return sum(int(text["sequences"]) - int(text["duplicates"]) for text in texts)
        return None

    def _plan(self, job: Job) -> Plan | str:
        """The plan, or why there is none: the job will say so itself, in its row."""
        try:
            run = Run(job, self.folder)
            folder = fetch.known_model(run)
            return plan.make(structure.known(run, folder).job, folder)
        except ValueError as refusal:
            return str(refusal)


def identity(job: Job, planned: Plan) -> Any:
    """What decides how a rung is judged: equal for two jobs that differ only in what changes nothing."""
    calib = job.calib if job.reads_text else Calibration()
    waiting = {name: rule for name, rule in job.exempt.items() if waits(rule)}
    return planned.identity(), replace(job, exempt=waiting, calib=calib)


def refuse(job: Job, search: str = "search=ladder") -> None:
    """Refuse a search in which no job could be accepted, or all would be the same. Raises ValueError."""
    for key, value in (("artifact", job.artifact), ("verify", job.verify), ("serve.keep", job.serve.keep)):
        if value:
            raise ValueError(f"{search} {key}={value}: every job makes another checkpoint; leave {key} out")
    if not job.method.function:
        raise ValueError(
            f"{search} method={job.method.name}: quantizes nothing, and every rung would be the same; use another"
        )
    if not set(job.stages) >= JUDGING:
        raise ValueError(
            f"{search} stages={job.stages}: its jobs are judged; add evaluate and judge, or leave stages out"
        )
    if not any(criterion.metric in QUALITY for criterion in job.gate.criteria.values()):
        raise ValueError(
            f"{search} gate={job.gate.name}: it has no quality criterion, and a search improves only quality; use "
            "gate=quality or another that has one"
        )


def refuse_given(overrides: list[str], rungs: Sequence[Rung]) -> None:
    """Refuse what the first rung replaces, so that no choice of the user is lost. Raises ValueError."""
    for override in overrides:
        if key_of(override) in rungs[0].overrides:
            raise ValueError(
                f"search=ladder {override}: the ladder sets it, rung by rung; leave it out, or edit "
                "conf/hydra/sweeper/ladder.yaml"
            )
