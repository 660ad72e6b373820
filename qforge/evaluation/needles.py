"""What is hidden in a long text and asked for: RULER's families of needles (Hsieh et al. 2024), and requests as in MRCR.

- single: one number for one key (niah_single)
- keys: four other keys have numbers, too (niah_multikey)
- values: four numbers for one key, all asked for (niah_multivalue)
- variables: a number is handed on from variable to variable, all that have it are asked for (vt)
- turns: the same was asked for four times in a conversation; the number in one of the answers is wanted (MRCR, OpenAI 2025)

The first needle lies at the depth asked for. The others of `keys` and `values` are spread evenly over the whole text, those of
`variables` and `turns` over what is behind it, in their order. The score of an answer is the share of what is wanted that
stands in it (RULER's string_match_all).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from qforge.config.evaluation import ANSWER, FAMILIES
from qforge.evaluation.long_prompt import LongPrompt

SINGLE = "single"
KEYS = ("harbour", "lantern", "meadow", "violin", "copper", "glacier", "orchard", "saddle", "thimble", "walnut")
MORE = 4  # needles: other keys, values of one, times that a thing is asked for
HOPS = 4  # of a variable's value
INTRODUCTION = (
    "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "number afterwards."
)
SEVERAL = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize them. I will quiz you about the "
    "numbers afterwards."
)
TRACED = "Memorize and track the chain(s) of variable assignment hidden in the following text."
TALKED = "The following text holds pieces of a conversation. I will ask you about one of its answers afterwards."
NEEDLE = "One of the special magic numbers for {key} is: {value}."
QUESTION = (
    "What is the special magic number for {key} mentioned in the provided text? The special magic number for {key} "
    "mentioned in the provided text is"
)
ALL_VALUES = (
    "What are all the special magic numbers for {key} mentioned in the provided text? The special magic numbers for {key} "
    "mentioned in the provided text are"
)
ALL_VARIABLES = (
    "Question: Find all variables that are assigned the value {value} in the text above. Answer: According to the chain(s) of "
    "variable assignment in the text above, {count} variables are assigned the value {value}, they are:"
)
TURN = "User: Write a line about the {key}. Assistant: Here is line number {value} about the {key}."
ONE_TURN = (
    "The user asked {count} times for a line about the {key}. What number has the line that was the {which} answer? The line "
    "that was the {which} answer has the number"
)
WHICH = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class Hidden:
    """Needles, and what is asked about them. `in_order`: those behind the first stay behind it."""

    introduction: str
    needles: list[str]
    question: str
    wanted: list[str]
    in_order: bool = False

    def places(self, depth: float) -> list[float]:
        """Of each needle, from 0 to 1."""
        count = len(self.needles)
        if self.in_order:
            return [depth + (1 - depth) * i / count for i in range(count)]
        return [depth, *((depth + i / count) % 1 for i in range(1, count))]


def prompt(kind: str, haystack: list[str], drawn: random.Random, depth: float) -> LongPrompt:
    """Needles in a haystack, which begins anew where it is too short; a piece is a sentence of it.

    `depth` 0 puts the first needle before the first sentence, 1 behind the last.
    """
    hidden = KINDS[kind](drawn)
    placed = sorted(zip(hidden.places(depth), range(len(hidden.needles)), hidden.needles, strict=True), reverse=True)

    def text(count: int) -> str:
        sentences = [haystack[i % len(haystack)] for i in range(count)]
        for place, _, needle in placed:  # from behind, so that the places of the others stay
            sentences.insert(round(place * count), needle)
        return "\n".join([hidden.introduction, " ".join(sentences), hidden.question])

    return LongPrompt(text, hidden.wanted, ANSWER if kind == SINGLE else FAMILIES[kind].answer)


def _number(drawn: random.Random) -> str:
    return str(drawn.randint(1_000_000, 9_999_999))


def _single(drawn: random.Random) -> Hidden:
    key, value = drawn.choice(KEYS), _number(drawn)
    return Hidden(INTRODUCTION, [NEEDLE.format(key=key, value=value)], QUESTION.format(key=key), [value])


def _keys(drawn: random.Random) -> Hidden:
    keys = drawn.sample(KEYS, 1 + MORE)
    values = [_number(drawn) for _ in keys]
    needles = [NEEDLE.format(key=key, value=value) for key, value in zip(keys, values, strict=True)]
    return Hidden(SEVERAL, needles, QUESTION.format(key=keys[0]), values[:1])


def _values(drawn: random.Random) -> Hidden:
    key, values = drawn.choice(KEYS), [_number(drawn) for _ in range(MORE)]
    needles = [NEEDLE.format(key=key, value=value) for value in values]
    return Hidden(SEVERAL, needles, ALL_VALUES.format(key=key), values)


def _variables(drawn: random.Random) -> Hidden:
    names = ["".join(drawn.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5)) for _ in range(1 + HOPS)]
    value = str(drawn.randint(10_000, 99_999))
    needles = [f"VAR {names[0]} = {value}."]
    needles += [f"VAR {second} = VAR {first}." for first, second in pairwise(names)]
    question = ALL_VARIABLES.format(value=value, count=len(names))
    return Hidden(TRACED, needles, question, names, in_order=True)


def _turns(drawn: random.Random) -> Hidden:
    key, values, which = drawn.choice(KEYS), [_number(drawn) for _ in range(MORE)], drawn.randrange(MORE)
    needles = [TURN.format(key=key, value=value) for value in values]
    question = ONE_TURN.format(key=key, count=MORE, which=WHICH[which])
    return Hidden(TALKED, needles, question, [values[which]], in_order=True)


KINDS: dict[str, Callable[[random.Random], Hidden]] = {
    SINGLE: _single,
    "keys": _keys,
    "values": _values,
    "variables": _variables,
    "turns": _turns,
}
