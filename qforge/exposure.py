"""What a model's calibration has seen of the text that it is scored on: a score on seen text flatters.

GPTQ calibrated on WikiText beats round-to-nearest there and loses to it on a software manual.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qforge import shown
from qforge.config import Job, repository_path
from qforge.evaluation import Text

WORDS = 13  # the length of a sequence that says two texts overlap (Brown et al. 2020, GPT-3, appendix C)


def seen(job: Job, text: Text) -> dict[str, Any] | None:
    """Whether calibration had a text of the same kind, and the share of this text's word sequences that it had.

    None where the method looks at no text, or where the checkpoint was given and nobody knows what it has seen.
    """
    if not job.method.calibrated or job.artifact:
        return None
    had = set().union(*(_sequences(file) for file in shown.files(job).values()))
    scored = _sequences(repository_path(text.path))
    return {
        "kind": text.kind in {other.kind for other in job.calib.texts.values()},
        "overlap": len(scored & had) / len(scored) if scored else 0.0,
    }


def _sequences(file: Path) -> set[tuple[str, ...]]:
    words = file.read_text().lower().split()
    return {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}
