"""What is kept of questions that were answered: every answer by itself, and the sums that two models are compared by.

The answers of a checkpoint lie in FILE beside evaluate's result, one a line: task, item, seed, what was asked and wanted, what
was answered, its faults (asking.py), its scores, and where a judge was asked what it said (`judgement`). A score of an item is
its mean over the seeds, none where a judge has not rated one of its answers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from qforge.evaluation.asking import FAULTS
from qforge.json_files import write_text

FILE = "answers.jsonl"

Record = dict[str, Any]
Summary = dict[str, Any]


def record(
    task: str, item: str, seed: int, asked: Any, wanted: Any, answer: Record, scores: Mapping[str, float | None]
) -> Record:
    """One line of FILE. `answer`: as asking.Chat.ask returns it."""
    return {"task": task, "item": item, "seed": seed, "asked": asked, "wanted": wanted, **answer, "scores": scores}


def mean(scores: Sequence[float | None]) -> float | None:
    """Of one item's scores by seed; none where one of them is none."""
    known = [score for score in scores if score is not None]
    return fmean(known) if len(known) == len(scores) else None


def across(seeds: Sequence[Summary]) -> Summary:
    """One summary of the same samples asked with several seeds: means of the metrics, and of every sample's scores."""
    first = seeds[0]
    return {
        **first,
        "metrics": {metric: fmean(one["metrics"][metric] for one in seeds) for metric in first["metrics"]},
        "per_sample": {
            metric: [fmean(scores) for scores in zip(*(one["per_sample"][metric] for one in seeds), strict=True)]
            for metric in first["per_sample"]
        },
    }


def account(records: Sequence[Record], seeds: int) -> Summary:
    """How the answers to a task were asked for, and what went wrong: counts of answers, and by item the share that did."""
    broken: dict[str, list[bool]] = {}
    for one in records:
        broken.setdefault(one["item"], []).append(bool(one["faults"]))
    counted = Counter(fault for one in records for fault in one["faults"])
    return {
        "seeds": seeds,
        "answers": len(records),
        "tokens": fmean(one["tokens"] for one in records),
        "faults": {fault: counted[fault] for fault in FAULTS},
        "broken": [fmean(shares) for shares in broken.values()],
    }


def write(file: Path, records: Sequence[Record]) -> None:
    """One record a line."""
    write_text(file, "".join(json.dumps(one) + "\n" for one in records))


def read(folder: Path) -> list[Record]:
    """The answers in the folder of an evaluate result; none where nothing was asked in chat."""
    file = folder / FILE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
