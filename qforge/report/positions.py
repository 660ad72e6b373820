"""Losses by position: how many tokens before a prediction, for each text and each dtype of the KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]


def by_position(row: Row) -> Iterator[tuple[str, str, Row]]:
    """Text, KV cache dtype and losses by position: of the long context where it was measured, else of the windows."""
    evaluate = (row.get("measured") or {}).get("evaluate") or {}
    long = {"as served": evaluate.get("long_context"), **(evaluate.get("kv") or {})}
    perplexities = [(dtype, part["perplexity"]) for dtype, part in long.items() if part and part.get("perplexity")]
    for dtype, texts in perplexities or [("as served", evaluate.get("texts") or {})]:
        for name, text in texts.items():
            if text.get("positions"):
                yield name, dtype, text["positions"]
