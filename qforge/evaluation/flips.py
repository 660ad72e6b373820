"""What changed: the answers that are worse than bf16's, side by side, worst first, so that a person can read what was lost.

Both models were asked the same with the same seeds. An item's loss is bf16's score of the task's judged metric less the
model's, each a mean over the seeds; shown are the answers of the seed that lost most. An item of which a judge has not rated
every answer, of both, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

Record = dict[str, Any]
SHOWN = 5  # items of a task in a row and its page; flips.json has them all
LONGEST = 600  # characters of a text there


def compare(own: Sequence[Record], other: Sequence[Record], judged: dict[str, str]) -> dict[str, Any]:
    """By task: how many items lost and won, and those that lost, worst first. `judged`: the metric of each task."""
    return {
        task: _task([r for r in own if r["task"] == task], [r for r in other if r["task"] == task], metric)
        for task, metric in judged.items()
    }


def shortened(flips: dict[str, Any]) -> dict[str, Any]:
    """The worst few of each task, with texts that a page can show."""
    return {
        task: {**found, "items": [{k: _cut(v) for k, v in item.items()} for item in found["items"][:SHOWN]]}
        for task, found in flips.items()
    }


def _task(own: list[Record], other: list[Record], metric: str) -> dict[str, Any]:
    pairs: dict[str, list[tuple[Record, Record]]] = {}
    theirs = {(record["item"], record["seed"]): record for record in other}
    for record in own:
        pairs.setdefault(record["item"], []).append((record, theirs[record["item"], record["seed"]]))
    rated = {
        item: of for item, of in pairs.items() if all(one["scores"][metric] is not None for both in of for one in both)
    }
    losses = {item: fmean(_loss(pair, metric) for pair in of) for item, of in rated.items()}
    worst = sorted((item for item in losses if losses[item] > 0), key=lambda item: -losses[item])
    return {
        "metric": metric,
        "items_lost": len(worst),
        "items_won": sum(loss < 0 for loss in losses.values()),
        "of": len(losses),
        "items": [_shown(losses[item], max(pairs[item], key=lambda pair: _loss(pair, metric))) for item in worst],
    }


def _loss(pair: tuple[Record, Record], metric: str) -> float:
    return float(pair[1]["scores"][metric] - pair[0]["scores"][metric])


def _shown(loss: float, pair: tuple[Record, Record]) -> dict[str, Any]:
    own, other = pair
    asked = own["asked"] if isinstance(own["asked"], str) else own["asked"][-1]["content"]
    return {
        "item": own["item"], "seed": own["seed"], "loss": loss, "asked": asked, "wanted": own["wanted"],
        "bf16": _said(other), "model": _said(own), "bf16_faults": other["faults"], "model_faults": own["faults"],
    }  # fmt: skip


def _said(record: Record) -> str:
    calls = [f"{call['name']}({call['arguments']})" for call in record["calls"]]
    return "\n".join([*([record["text"]] if record["text"] else []), *calls])


def _cut(value: Any) -> Any:
    return f"{value[:LONGEST]} …" if isinstance(value, str) and len(value) > LONGEST else value
