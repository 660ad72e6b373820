"""Spoken answers in the report: a browser plays them, one row from the page itself, many from beside it."""

from __future__ import annotations

import copy
import io
import wave
from pathlib import Path
from typing import Any

import pytest
from support.browser import ask, browser
from support.rows import ROWS

from qforge.report import pages

SECONDS = 2.0


def sound() -> bytes:
    import numpy as np

    output = io.BytesIO()
    with wave.open(output, "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(np.arange(int(24000 * SECONDS)) / 20)).astype(np.int16).tobytes())
    return output.getvalue()


def spoken(text: str, file: str, *faults: str) -> dict[str, Any]:
    answer = {
        "question": "Who are you?", "text": text, "file": file, "codes": 25, "seconds": SECONDS, "faults": list(faults),
        "rms_dbfs": -14.0, "peak_dbfs": -11.0, "clipped": 0.0, "first_text_seconds": 0.1, "first_sound_seconds": 0.4,
        "answer_seconds": 1.0, "real_time_factor": 0.5,
    }  # fmt: skip
    return {"answers": [answer], "text": {"answers": 1, "equal": 1, "alike": 1.0, "differs": None}}


@pytest.fixture
def row() -> dict[str, Any]:
    made = copy.deepcopy(next(row for row in ROWS if row["method"] == "gptq"))
    made["measured"]["speak"] = spoken('<b>I</b> am & "you"', "speech-1.wav", "silence <i>here</i>")
    made["baseline"]["speak"] = spoken("I am.", "bf16-speech-1.wav")
    return made


def test_both_sides_are_played_from_the_page_itself(row: dict[str, Any], tmp_path: Path) -> None:
    for name in ("speech-1.wav", "bf16-speech-1.wav"):
        (tmp_path / name).write_bytes(sound())
    page = tmp_path / "report.html"
    pages.html(page, [row])
    for name in ("speech-1.wav", "bf16-speech-1.wav"):
        (tmp_path / name).unlink()
    found = ask(
        page,
        """
        const table = document.querySelector('table.voices'), count = (what) => table.querySelectorAll(what).length;
        return {heads: [...table.querySelectorAll('th[scope=col]')].map(th => th.textContent), text: table.textContent,
                tags: count('b, i'), players: count('audio[src^="data:audio/wav;base64,"]')}""",
    )
    assert found["heads"] == ["asked", "gptq", "bf16"]
    assert (found["players"], found["tags"]) == (2, 0)
    assert '“<b>I</b> am & "you"”' in found["text"]
    assert "silence <i>here</i>" in found["text"]


def test_many_rows_play_what_lies_in_their_folders(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "speech-1.wav").write_bytes(sound())
    page = tmp_path / "report.html"
    pages.html(page, [{**row, "folder": "a b"}, ROWS[0]])
    text = page.read_text()
    assert 'src="a%20b/speech-1.wav"' in text
    assert "bf16-speech-1.wav is not beside this page" in text


def test_a_row_names_no_file_elsewhere(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(sound())
    row["measured"]["speak"]["answers"][0]["file"] = "../secret.wav"
    page = tmp_path / "run" / "report.html"
    page.parent.mkdir()
    pages.html(page, [row])
    assert "data:audio" not in page.read_text()


def test_the_browser_knows_how_long_it_sounds(row: dict[str, Any], tmp_path: Path) -> None:
    """Chromium decodes the WAV: nothing else would know its length."""
    (tmp_path / "speech-1.wav").write_bytes(sound())
    page = tmp_path / "report.html"
    pages.html(page, [row])
    text = page.read_text().replace(
        'preload="metadata"', 'preload="auto" onloadedmetadata="document.title = this.duration"'
    )
    page.write_text(text)
    assert f"<title>{SECONDS:g}</title>" in browser(page, "--dump-dom", "--virtual-time-budget=5000")
