"""What somebody else hears in a spoken answer: a speech recognizer behind OpenAI's API, and its words against the text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import httpx

from qforge.config.evaluation import Spoken
from qforge.envs.request import Refused

KEY = "QFORGE_RECOGNIZER_KEY"  # environment variable with the recognizer's API key


def heard(settings: Spoken, file: Path, text: str) -> dict[str, Any]:
    """What the recognizer writes down, and its word error rate against `text`. Raises Refused where it cannot be asked."""
    key = os.environ.get(KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{str(settings.recognizer).rstrip('/')}/audio/transcriptions"
    form = {"file": (file.name, file.read_bytes(), "audio/wav")}
    try:
        reply = httpx.post(url, headers=headers, files=form, data={"model": settings.recognizer_model}, timeout=600)
        written = str(reply.raise_for_status().json()["text"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        raise Refused(
            f"eval.speech.recognizer={settings.recognizer}: it cannot be asked ({why}); "
            f"check the address, eval.speech.recognizer_model and {KEY}, or leave it out"
        ) from None
    return {"text": written, "word_error_rate": word_error_rate(text, written)}


def word_error_rate(text: str, written: str) -> float:
    """Words changed, left out or added, over the words of `text`, without case and punctuation (edit distance)."""
    right, got = (re.findall(r"\w+", words.lower()) for words in (text, written))
    row = list(range(len(got) + 1))
    for number, word in enumerate(right, 1):
        above, row = row, [number]
        for place, other in enumerate(got):
            row.append(min(above[place] + (word != other), above[place + 1] + 1, row[-1] + 1))
    return row[-1] / max(len(right), 1)
