"""Perplexity, defined once for both ways of scoring: windows of a text, and what a list of losses says.

A text is tokenized whole, without special tokens, and cut from its start into consecutive windows that do not overlap
(the stride is the window's own length). Where the tokenizer begins a text with a BOS token by itself (Gemma, Llama 3),
each window does, within its length. Every token of a window but the first is scored, given the tokens before it in the
window and nothing else.

Perplexity = exp(sum of -log p / number of scored tokens), over all windows.

Windows take their lengths in turn from a list, so that mixed lengths are the same for every model. More windows of the
same lengths are the same ones and some more: a score can be refined without scoring anything else.
"""

from __future__ import annotations

import math
from itertools import cycle, islice, pairwise
from typing import Any

from qforge.envs.request import Refused

FIRST_BIN = 64  # positions 1 to 63; every bin after it is twice as far


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer begins every text with by itself: BOS, or none."""
    with_bos: list[int] = tokenizer("a")["input_ids"]
    return with_bos[: len(with_bos) - len(tokenizer("a", add_special_tokens=False)["input_ids"])]


def windows(text: str, tokenizer: Any, lengths: list[int], count: int) -> list[list[int]]:
    """`count` windows of token ids, of `lengths` in turn. Raises Refused where the text is too short."""
    bos = beginning(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = [0]
    for length in islice(cycle(lengths), count):
        ends.append(ends[-1] + length - len(bos))
    if len(ids) < ends[-1]:
        enough = sum(end <= len(ids) for end in ends[1:])
        raise Refused(
            f"eval.windows={count} of {', '.join(map(str, lengths))} tokens (eval.context, eval.lengths) were requested, the "
            f"text has {len(ids)} tokens; use at most {enough} windows, or add a longer text"
        )
    return [[*bos, *ids[start:end]] for start, end in pairwise(ends)]


def perplexity(losses: list[list[float]]) -> float:
    """From -log p of every scored token, by window: finite ones, at most garbage.MOST on average."""
    return math.exp(sum(map(sum, losses)) / sum(map(len, losses)))


def summary(losses: list[list[float]]) -> dict[str, Any]:
    """What is kept of a text's score: enough to compare two models window by window, and along the window."""
    return {
        "perplexity": perplexity(losses),
        "tokens": sum(map(len, losses)),
        "window_tokens": [len(window) for window in losses],
        "window_loss": [sum(window) for window in losses],
        "positions": positions(losses),
    }


def positions(losses: list[list[float]]) -> dict[str, list[Any]]:
    """Loss by position in the window: bin i holds the tokens at from[i] and after, up to from[i + 1].

    Perplexity of a bin = exp(loss / tokens).
    """
    longest = max(map(len, losses))
    starts = [1]
    while max(FIRST_BIN, 2 * starts[-1]) <= longest:
        starts.append(max(FIRST_BIN, 2 * starts[-1]))
    # the token at position p of a window, counted from 0, has loss p - 1: the first one has none
    bins = [[x for window in losses for x in window[a - 1 : b - 1]] for a, b in pairwise([*starts, longest + 1])]
    return {"from": starts, "tokens": [len(b) for b in bins], "loss": [sum(b) for b in bins]}
