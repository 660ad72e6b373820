"""What a single run says first beside its verdict: what the checkpoint costs and saves, and what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from qforge.judge import goals
from qforge.report.plan_table import size as size_of

Row = dict[str, Any]
LADDER = "exempt=", "hydra.run.dir=", "stages="  # what the ladder sets itself, or cannot keep
ASKED = "model", "hw"  # what the guide has to know
MORE = "eval.adaptive=true"


def costs(row: Row) -> str:
    """What it costs and saves against bf16, as far as both were measured, in one line."""
    size, own, theirs = row["size"], row["measured"], row.get("baseline") or {}
    parts = [
        f"{size_of(size['bytes'])} instead of {size_of(size['bf16_bytes'])}, {size['bits_per_weight']:.2f} bits per weight"
    ]
    texts = (theirs.get("evaluate") or {}).get("texts") or {}
    for name, text in (own["evaluate"].get("texts") or {}).items():
        if name in texts:
            change = 100 * (text["perplexity"] / texts[name]["perplexity"] - 1)
            parts.append(f"perplexity of {name} {change:+.1f} %")
    runs, bf16 = (side.get("bench", {}).get("runs", {}) for side in (own, theirs))
    rates = [
        f"{run['output_throughput'] / bf16[n]['output_throughput']:.2f} at {n}" for n, run in runs.items() if n in bf16
    ]
    return "; ".join([*parts, *(f"tokens/s, bf16 = 1, by streams: {', '.join(rates)}" for _ in rates[:1])])


def next_step(row: Row) -> tuple[str, str] | None:
    """What to do next, and the command; none where nothing was judged or nothing follows from it."""
    word, judged = goals.word(row), {goal["verdict"] for goal in row["goals"].values()}
    words = shlex.split(row["command"])
    start = list(takewhile(lambda part: "=" not in part, words))
    given = words[len(start) :]
    if word == "unsound" and not row.get("artifact"):
        kept = [part for part in given if not part.startswith(LADDER)]
        why = "spend bits where they count, step by step, until the quality holds"
        return why, shlex.join([*start, "--multirun", "search=ladder", *kept])
    if word == "sound" and "reject" in judged:
        kept = list(_about(given))
        return "which method for what it is not good for", shlex.join([*start, "method=auto", "plan_only=true", *kept])
    if MORE not in given and _undecided(row):
        return "measure more of what is undecided", shlex.join([*words, MORE])
    if word == "sound" and judged == {"accept"}:
        return "serve it, in the folder of this page", "vllm serve artifact"
    return None


def _undecided(row: Row) -> bool:
    return any(c["verdict"] == "inconclusive" for _, c in goals.criteria(row)) and goals.word(row) in (
        "sound",
        "undecided",
    )


def _about(given: list[str]) -> Iterator[str]:
    for part in given:
        key = part.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in ASKED:
            yield part
