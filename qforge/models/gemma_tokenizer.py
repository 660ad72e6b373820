"""Gemma's tokenizer out of a GGUF file.

transformers 5.17 makes a Unigram model of it, to which the scores mean something else: other tokens, and single letters once
it is saved and read back. This one cuts the texts of data/texts as SentencePiece does, but for a run of 33 spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # transformers' names, and GGUF's


class Kind(IntEnum):
    """Of a piece: GGUF's `tokenizer.ggml.token_type`, with SentencePiece's own numbers."""

    normal = 1
    user_defined = 4


def read(file: Path) -> Any:
    """The tokenizer, with the file's special tokens; it begins a text with BOS, as Gemma wants."""
    from gguf import GGUFReader
    from transformers import GemmaTokenizer

    fields = GGUFReader(file).fields

    def value(name: str) -> Any:
        return fields[f"tokenizer.ggml.{name}"].contents()

    pieces = [piece.replace(" ", "▁") for piece in value("tokens")]
    special = {f"{name}_token": pieces[value(f"{key}_token_id")] for name, key in SPECIAL.items()}
    pairs = merges(pieces, value("scores"), value("token_type"))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return GemmaTokenizer(vocab=vocabulary, merges=pairs, add_bos_token=True, **special)


def merges(pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> list[tuple[str, str]]:
    """The pairs that SentencePiece's BPE would join, in its order: the one that makes the piece of the best score first.

    Pieces that the user defined are found before anything is joined: here their pairs come first, the shorter ones before.
    """
    order = {}
    for number, (piece, score, kind) in enumerate(zip(pieces, scores, kinds, strict=True)):
        if kind in (Kind.normal, Kind.user_defined):
            by_user = kind == Kind.user_defined
            order[piece] = (not by_user, len(piece) if by_user else -score, number)
    pairs = [(piece[:cut], piece[cut:]) for piece in order for cut in range(1, len(piece))]
    pairs_of_tokens = [pair for pair in pairs if pair[0] in order and pair[1] in order]
    return sorted(pairs_of_tokens, key=lambda pair: (order["".join(pair)], order[pair[0]][-1], order[pair[1]][-1]))
