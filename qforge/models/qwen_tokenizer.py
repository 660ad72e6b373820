"""Qwen's tokenizer out of a file of byte pairs with their ranks, as tiktoken reads it.

Such a file says how often a piece was joined before others, not of which two pieces: every pair whose halves are pieces is
one, in the order of its rank. It cuts data/texts as Qwen's own tokenizer.json would: same pieces, same normalization.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# How a text is cut before pieces are looked for, of Qwen2's tokenizer: https://huggingface.co/docs/transformers/model_doc/qwen2
CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def read(file: Path, added: Mapping[str, Mapping[str, Any]]) -> Any:
    """The tokenizer of `file`; `added`: what comes after its pieces, by number, as `added_tokens_decoder` of a
    tokenizer_config.json. Raises ValueError where a number is not the next one."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    ranks = dict(_pieces(file))
    names = _printable()
    spelled = {piece: "".join(map(names.__getitem__, piece)) for piece in ranks}
    vocabulary = {spelled[piece]: rank for piece, rank in ranks.items()}
    pairs = [(spelled[first], spelled[second]) for first, second in _pairs(ranks)]
    tokenizer = Tokenizer(BPE(vocabulary, pairs, fuse_unk=False, byte_fallback=False, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CUT), "isolated"), bytes_alone])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(**token) for _, token in sorted(added.items(), key=lambda entry: int(entry[0]))])
    for number, token in added.items():
        if (found := tokenizer.token_to_id(token["content"])) != int(number):
            raise ValueError(
                f"{token['content']} would be token {found}, not {number}: {file.name} is another vocabulary"
            )
    return tokenizer


def _pieces(file: Path) -> Iterator[tuple[bytes, int]]:
    for line in file.read_bytes().splitlines():
        piece, rank = line.split()
        yield base64.b64decode(piece), int(rank)


def _pairs(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pairs to join, in their order."""
    found = []
    for piece, rank in ranks.items():
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [
            (ranks[first], ranks[second], first, second)
            for first, second in halves
            if first in ranks and second in ranks
        ]
        found += [(rank, *halves) for halves in sorted(known)]
    return [(first, second) for *_, first, second in sorted(found, key=lambda pair: pair[0])]


def _printable() -> list[str]:
    """The letter that stands for each byte in a tokenizer.json: GPT-2's, itself where it can be printed."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]
