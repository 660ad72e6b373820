"""Perplexity, defined once for both ways of scoring: windows of a text, and what a list of losses says.

A text is tokenized whole, without special tokens, and cut from its start into consecutive windows that do not overlap.
Where the tokenizer begins a text with a BOS token by itself (Gemma, Llama 3), each window does, within its length.
Every token of a window but the first is scored, given the tokens before it in the window.
Perplexity = exp(sum of -log p / number of scored tokens).
"""

from __future__ import annotations

import math
from typing import Any

from qforge.request import Refused


def windows(text: str, tokenizer: Any, context: int, count: int) -> list[list[int]]:
    """`count` windows of `context` token ids. Raises Refused where the text is too short."""
    with_bos = tokenizer("a")["input_ids"]
    bos = with_bos[: len(with_bos) - len(tokenizer("a", add_special_tokens=False)["input_ids"])]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    step = context - len(bos)
    if len(ids) < step * count:
        raise Refused(
            f"eval.windows={count} of eval.context={context} tokens were asked for, the text has {len(ids)} tokens; ask "
            f"for at most {len(ids) // step} windows, or add a longer text"
        )
    return [[*bos, *ids[i * step : (i + 1) * step]] for i in range(count)]


def perplexity(losses: list[list[float]]) -> float:
    """From -log p of every scored token, by window."""
    return math.exp(sum(map(sum, losses)) / sum(map(len, losses)))


def summary(losses: list[list[float]]) -> dict[str, Any]:
    """What is kept of a text's score: enough to compare two models window by window."""
    return {
        "perplexity": perplexity(losses),
        "tokens": sum(map(len, losses)),
        "window_tokens": [len(window) for window in losses],
        "window_loss": [sum(window) for window in losses],
    }
