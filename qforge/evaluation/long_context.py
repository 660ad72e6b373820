"""Long context: does a model still find one sentence in a long text, and does each token still get easier to predict?

Needles are RULER's (needles.py): a sentence with a number is hidden at a given depth of a text of a given length, and the
number is asked for; the score is the share of prompts whose greedy answer holds it. The text is RULER's repeated noise, or real
text; `families` asks for more: several needles in the noise, words to be counted (counted_words.py), and a question that one
document of many answers (documents.py). RULER is in lm-eval, but needs a hub for its essays, words and documents, and places
needles at random; here the depth is an axis. Perplexity by position is that of one window as long as the longest prompt, or as
the text where that is shorter (see perplexity.py), for each real text.

The same prompts are made for every model that shares a tokenizer; `prompts_sha256` says so.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import Any

from qforge.config.evaluation import LongContext
from qforge.config.places import given_path
from qforge.evaluation import counted_words, documents, garbage, needles
from qforge.evaluation.long_prompt import LongPrompt
from qforge.evaluation.perplexity import summary, windows
from qforge.evaluation.scorers import Scorer

Kind = Callable[[random.Random, int, float], LongPrompt]  # drawn, tokens, depth
NOISE = ["The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."]
OTHERS: dict[str, Kind] = {  # than needles, by family
    "common_words": lambda drawn, length, depth: counted_words.common(drawn, length),
    "frequent_words": lambda drawn, length, depth: counted_words.frequent(drawn, length),
    "question_answering": lambda drawn, length, depth: documents.prompt(drawn, depth),
}


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

    kinds = _kinds(settings.families, haystacks)
    cells = [(name, n, d, i) for name in kinds for n in settings.lengths for d in settings.depths
             for i in range(settings.per_cell)]  # fmt: skip
    asked = []
    for name, length, depth, i in cells:
        prompt = kinds[name](random.Random(f"{name} {length} {depth} {i}"), length, depth)
        asked.append((prompt.ids(tokenizer, length), prompt))

    def ask(question: tuple[list[int], LongPrompt]) -> float:
        ids, prompt = question
        return prompt.found(scorer.complete(ids, prompt.tokens))

    with ThreadPoolExecutor(scorer.parallel) as pool:
        answers = iter(list(tqdm(pool.map(ask, asked), total=len(asked), desc="needles")))
    scores = {
        name: [[[next(answers) for _ in range(settings.per_cell)] for _ in settings.depths] for _ in settings.lengths]
        for name in kinds
    }
    found = {name: [[fmean(cell) for cell in line] for line in lines] for name, lines in scores.items()}
    prompts = [(ids, prompt.wanted) for ids, prompt in asked]
    return {
        "lengths": settings.lengths,
        "depths": settings.depths,
        "per_cell": settings.per_cell,
        "prompts_sha256": hashlib.sha256(repr(prompts).encode()).hexdigest(),
        "scores": scores,
        "found": found,
    }


def _kinds(families: list[str], haystacks: dict[str, list[str]]) -> dict[str, Kind]:
    """What makes the prompts of each table, by its name."""
    kinds = {name: _needle(needles.SINGLE, haystack) for name, haystack in haystacks.items()}
    for family in families:
        if family in OTHERS:
            kinds[family.replace("_", " ")] = OTHERS[family]
        else:
            kinds[f"noise, {family}"] = _needle(family, NOISE)
    return kinds


def _needle(kind: str, haystack: list[str]) -> Kind:
    return lambda drawn, length, depth: needles.prompt(kind, haystack, drawn, depth)


def sentences(text: str) -> list[str]:
    """A text cut at the ends of its sentences, white space made plain."""
    return re.split(r"(?<=[.!?]) ", " ".join(text.split()))
