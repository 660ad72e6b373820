"""What a model's calibration has seen of the text that it is scored on: a score on seen text flatters.

GPTQ calibrated on WikiText beats round-to-nearest there and loses to it on a software manual.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

WORDS = 13  # the length of a sequence that says two texts overlap (Brown et al. 2020, GPT-3, appendix C)


def seen(scored: Path, kind: str, calibration: Iterable[Path], kinds: set[str]) -> dict[str, Any]:
    """Whether calibration had a text of the same kind, and the share of the scored text's word sequences that it had."""
    had = set().union(*map(_sequences, calibration))
    sequences = _sequences(scored)
    return {"kind": kind in kinds, "overlap": len(sequences & had) / len(sequences) if sequences else 0.0}


def _sequences(file: Path) -> set[tuple[str, ...]]:
    words = file.read_text().lower().split()
    return {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}
