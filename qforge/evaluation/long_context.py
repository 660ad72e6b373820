"""Long context: does a model still find one sentence in a long text, and does each token still get easier to predict?

Needles are RULER's (needles.py): a sentence with a number is hidden at a given depth of a text of a given length, and the
number is asked for; the score is the share of prompts whose greedy answer holds it. The text is RULER's repeated noise, or real
text; `families` hides other things in the noise, several at once. RULER is in lm-eval, but needs a hub for its essays and its
words, and places needles at random; here the depth is an axis. Perplexity by position is that of one window as long as the
longest prompt, or as the text where that is shorter (see perplexity.py), for each real text.

The same prompts are made for every model that shares a tokenizer; `prompts_sha256` says so.
"""

from __future__ import annotations

import hashlib
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qforge.config.evaluation import LongContext
from qforge.config.places import given_path
from qforge.evaluation import garbage
from qforge.evaluation.needles import FAMILIES, SINGLE, Hidden
from qforge.evaluation.perplexity import summary, windows
from qforge.evaluation.scorers import Scorer

NOISE = ["The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."]


def measure(settings: LongContext, scorer: Scorer, tokenizer: Any) -> dict[str, Any]:
    """Needles found by haystack, length and depth, and the loss by position in each real text."""
    texts = {name: given_path(text.path).read_text() for name, text in settings.texts.items()}
    haystacks = {"noise": NOISE, **{name: sentences(text) for name, text in texts.items()}}
    return {
        "perplexity": {name: _positions(settings, scorer, tokenizer, name, text) for name, text in texts.items()},
        "needles": _needles(settings, scorer, tokenizer, haystacks),
    }


def _positions(settings: LongContext, scorer: Scorer, tokenizer: Any, name: str, text: str) -> dict[str, Any]:
    longest = min(max(settings.lengths), len(tokenizer(text)["input_ids"]))
    (window,) = windows(text, tokenizer, [longest], 1)
    scored = hashlib.sha256(repr(window).encode()).hexdigest()
    losses = scorer.score(window).losses
    garbage.refuse(f"the long text {name}", [window], [losses], scorer)
    return {"length": longest, **summary([losses]), "windows_sha256": scored}


def _needles(settings: LongContext, scorer: Scorer, tokenizer: Any, haystacks: dict[str, list[str]]) -> dict[str, Any]:
    from tqdm import tqdm

    kinds = {name: (haystack, SINGLE) for name, haystack in haystacks.items()}
    kinds |= {f"noise, {family}": (NOISE, family) for family in settings.families}
    cells = [(name, n, d, i) for name in kinds for n in settings.lengths for d in settings.depths
             for i in range(settings.per_cell)]  # fmt: skip
    asked = []
    for name, length, depth, i in cells:
        haystack, family = kinds[name]
        hidden = FAMILIES[family](random.Random(f"{name} {length} {depth} {i}"))
        asked.append((prompt(haystack, tokenizer, length, depth, hidden), hidden))

    def ask(question: tuple[list[int], Hidden]) -> float:
        ids, hidden = question
        return hidden.found(scorer.complete(ids, hidden.tokens))

    with ThreadPoolExecutor(scorer.parallel) as pool:
        answers = iter(list(tqdm(pool.map(ask, asked), total=len(asked), desc="needles")))
    needles = {
        name: [[sum(next(answers) for _ in range(settings.per_cell)) / settings.per_cell for _ in settings.depths]
               for _ in settings.lengths]
        for name in kinds
    }  # fmt: skip
    prompts = [(ids, hidden.wanted) for ids, hidden in asked]
    return {
        "lengths": settings.lengths,
        "depths": settings.depths,
        "per_cell": settings.per_cell,
        "prompts_sha256": hashlib.sha256(repr(prompts).encode()).hexdigest(),
        "found": needles,
    }


def sentences(text: str) -> list[str]:
    """A text cut at the ends of its sentences, white space made plain."""
    return re.split(r"(?<=[.!?]) ", " ".join(text.split()))


def prompt(haystack: list[str], tokenizer: Any, length: int, depth: float, hidden: Hidden) -> list[int]:
    """A prompt of at most `length` tokens, BOS included where the tokenizer has one, with what is hidden in it.

    The haystack begins anew where it is too short. `depth` 0 puts the first needle before its first sentence, 1 after its last.
    """

    def ids(count: int) -> list[int]:
        text = [haystack[i % len(haystack)] for i in range(count)]
        placed = sorted(
            zip(hidden.places(depth), range(len(hidden.needles)), hidden.needles, strict=True), reverse=True
        )
        for place, _, needle in placed:  # from behind, so that the places of the others stay
            text.insert(round(place * count), needle)
        tokens: list[int] = tokenizer("\n".join([hidden.introduction, " ".join(text), hidden.question]))["input_ids"]
        return tokens

    most = 1  # of the sentences: doubled until they are too many, then halved between
    while len(ids(most)) <= length:
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if len(ids(middle)) <= length else (least, middle)
    return ids(least)
