"""A prompt of a given length in the model's tokens, and what stands in a right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LongPrompt:
    """`text(count)` is the prompt with so many sentences, words or documents, longer with more."""

    text: Callable[[int], str]
    wanted: list[str]
    tokens: int  # that the answer may have
    one_is_enough: bool = False  # of what is wanted, which are ways to say the same

    def ids(self, tokenizer: Any, length: int) -> list[int]:
        """The prompt of as many pieces as `length` tokens have room for, BOS included where the tokenizer has one.

        Raises ValueError where it is longer without any.
        """

        def ids(count: int) -> list[int]:
            tokens: list[int] = tokenizer(self.text(count))["input_ids"]
            return tokens

        if (bare := len(ids(0))) > length:
            raise ValueError(
                f"eval.long_context.lengths: {length} tokens have no room for a question of {bare}; leave that length out"
            )
        most = 1  # of the pieces: doubled until they are too many, then halved between
        while len(ids(most)) <= length:
            most *= 2
        least = most // 2
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if len(ids(middle)) <= length else (least, middle)
        return ids(least)

    def found(self, answer: str) -> float:
        """The share of what is wanted that stands in an answer, in whatever case: RULER's string_match_all. Where one is
        enough 1 or 0: its string_match_part."""
        found = [one.lower() in answer.lower() for one in self.wanted]
        return float(any(found)) if self.one_is_enough else sum(found) / len(found)
