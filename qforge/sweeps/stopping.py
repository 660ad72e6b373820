"""What a rung's row says: whether to climb on, and what it is weighed by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from statistics import fmean
from typing import Any

from qforge.judge.metrics import METRICS
from qforge.judge.verdict import overall

Row = dict[str, Any]
QUALITY = {name for name, metric in METRICS.items() if metric.quality}


@dataclass(frozen=True)
class End:
    """Why the climb ends: accepted, beyond_quality, not_measured or top."""

    outcome: str
    why: str


def end_of(row: Row) -> End | None:
    """Why the climb ends with this row; none: climb on.

    Only what the gate asks of quality is a reason to climb, since nothing else is mended by more bits. Undecided is not
    accepted: it climbs on, for a rung with more bits may be surely good where this one is not.
    """
    if row["verdict"] == "accept":
        return End("accepted", "")
    if row["verdict"] in ("refused", "failed", "planned"):
        return None
    quality = quality_of(row)
    if quality == "not_measured":
        return End(quality, "; ".join(missed(row, True)) or "nothing was judged")
    if quality == "accept":
        others = "; ".join(missed(row, False))
        return End(
            "beyond_quality", f"all quality criteria pass; more bits do not change the criteria that fail: {others}"
        )
    return None


def quality_of(row: Row) -> str:
    """The verdict of the criteria of quality alone."""
    return overall({c["verdict"] for c in row["criteria"] if c["metric"] in QUALITY})


def missed(row: Row, quality: bool) -> Iterator[str]:
    """The criteria that did not pass, in words: those of quality, or the others."""
    for c in row["criteria"]:
        if (c["metric"] in QUALITY) is quality and c["verdict"] != "pass":
            value = (
                f"{c['value']:.3g} {METRICS[c['metric']].unit}, wanted {c['threshold']}"
                if c["value"] is not None
                else ""
            )
            yield " ".join(filter(None, (c["criterion"], c["of"], value, c["reason"])))


def numbers(row: Row) -> dict[str, float]:
    """What a rung is weighed by, as far as it was measured.

    loss: above bf16's, and kl: from bf16, both in nats per token, the mean over the texts; bytes of the checkpoint;
    tokens_per_second at the most streams.
    """
    figures: dict[str, float] = {}
    measured, baseline = row.get("measured", {}), row.get("baseline") or {}
    texts, reference = (side.get("evaluate", {}).get("texts", {}) for side in (measured, baseline))
    if texts and reference:
        figures["loss"] = fmean(log(text["perplexity"] / reference[name]["perplexity"]) for name, text in texts.items())
    if divergences := measured.get("divergence", {}).get("texts"):
        figures["kl"] = fmean(text["kl"] for text in divergences.values())
    if size := row.get("size"):
        figures["bytes"] = size["bytes"]
    if runs := measured.get("bench", {}).get("runs"):
        figures["tokens_per_second"] = runs[max(runs, key=int)]["output_throughput"]
    return figures
