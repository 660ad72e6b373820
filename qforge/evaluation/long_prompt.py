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

        least, most = 0, 1  # of the pieces: doubled until they are too many, then drawn together
        fitting, beyond = ids(least), ids(most)
        if len(fitting) > length:
            raise ValueError(
                f"eval.long_context.lengths: {length} tokens have no room for a question of {len(fitting)}; leave that "
                "length out"
            )
        while len(beyond) <= length:
            least, fitting = most, beyond
            most *= 2
            beyond = ids(most)
        while most - least > 1:
            share = (length - len(fitting)) / (len(beyond) - len(fitting))  # the tokens grow about as the pieces do
            between = min(max(least + round(share * (most - least)), least + 1), most - 1)
            if len(tokens := ids(between)) <= length:
                least, fitting = between, tokens
            else:
                most, beyond = between, tokens
        return fitting

    def found(self, answer: str) -> float:
        """The share of what is wanted that stands in an answer, in whatever case: RULER's string_match_all. Where one is
        enough 1 or 0: its string_match_part."""
        found = [one.lower() in answer.lower() for one in self.wanted]
        return float(any(found)) if self.one_is_enough else sum(found) / len(found)
