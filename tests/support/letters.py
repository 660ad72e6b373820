"""A tokenizer whose tokens a test can read."""

from __future__ import annotations


class Letters:
    """A tokenizer of one token per character, with a BOS if asked for."""

    def __init__(self, bos: list[int]) -> None:
        self.bos = bos

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": (self.bos if add_special_tokens else []) + [ord(c) for c in text]}
