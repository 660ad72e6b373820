"""Spoken answers on a page: what can be played there, the model's own beside bf16's, and what was measured of them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

Row = dict[str, Any]


def spoken(row: Row, folder: Path, embedded: bool) -> list[dict[str, Any]]:
    """An entry per question: the answer of each side, with `sound`, an address that a page in `folder` can play; none where
    its file is gone. `embedded`: in the page itself, so that it can be sent by itself."""
    ours, theirs = (_answers(row, side) for side in ("measured", "baseline"))
    beside = {answer["question"]: answer for answer in theirs}
    return [
        {
            "question": answer["question"],
            "ours": _playable(answer, row, folder, embedded),
            "theirs": _playable(other, row, folder, embedded) if (other := beside.get(answer["question"])) else None,
        }
        for answer in ours
    ]


def _answers(row: Row, side: str) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = ((row.get(side) or {}).get("speak") or {}).get("answers", [])
    return answers


def _playable(answer: dict[str, Any], row: Row, folder: Path, embedded: bool) -> dict[str, Any]:
    place = Path(row.get("folder") or "", Path(answer["file"]).name)  # of a sweep: in the folder of its job
    file, sound = folder / place, None
    if file.is_file():
        content = base64.b64encode(file.read_bytes()).decode() if embedded else ""
        sound = f"data:audio/wav;base64,{content}" if embedded else quote(place.as_posix())
    return {**answer, "sound": sound}
