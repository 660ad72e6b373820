"""Spoken answers: what is wrong with a sound, what a stream of one is read as, and whose text it is."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pytest
from support.jobs import job

from qforge.envs.request import Failed, Refused
from qforge.evaluation import recognizer, sound, speech

SAMPLES = 1920  # of a code


def wav(samples: Any, rate: int = 24000, channels: int = 1, width: int = 2) -> bytes:
    output = io.BytesIO()
    with wave.open(output, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, np.int16 if width == 2 else np.uint8).tobytes())
    return output.getvalue()


def tone(codes: float, loud: float = 0.3) -> Any:
    return loud * 32767 * np.sin(np.arange(int(codes * SAMPLES)) / 20)


@contextmanager
def serving(*replies: bytes, code: int = 200) -> Iterator[tuple[str, list[bytes]]]:
    """A server with one answer for whatever is asked; its address, and what it was asked."""
    asked: list[bytes] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b"".join(replies))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def events(*chunks: dict[str, Any]) -> bytes:
    return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


def chunk(content: str, modality: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}}], "modality": modality, **more}


@pytest.mark.parametrize(
    ("content", "codes", "faults"),
    [
        (wav(tone(48.7)), 50, []),  # as vLLM-Omni 0.30 makes of 50 codes
        (wav(tone(48.7)), None, []),
        (wav(tone(10)), 50, ["10.0 codes long, and the talker made 50"]),
        (wav(np.full(5 * SAMPLES, 600)), 5, ["silence (-120 dB of full scale)"]),  # a constant is not heard
        (wav(np.clip(tone(5, 9.0), -32767, 32767)), 5, ["clipped"]),
        (wav(tone(5), rate=16000), 5, ["16000 Hz, 1 channels of 16 bits, not 24000 Hz, one of 16 bits"]),
        (wav(tone(10), channels=2), 5, ["24000 Hz, 2 channels of 16 bits"]),
        (wav([]), 5, ["no sample"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sound(content: bytes, codes: int | None, faults: list[str]) -> None:
    found = sound.faults(sound.read(content), codes, SAMPLES)
    assert len(found) == len(faults)
    assert all(said.startswith(fault) for said, fault in zip(found, faults, strict=True)), found


def test_pieces_of_a_sound_become_one() -> None:
    made = sound.read(sound.joined([wav(tone(4)), wav(tone(25)), wav(tone(1))]))
    assert (made.rate, made.channels, made.width, len(made.samples)) == (24000, 1, 2, 30 * SAMPLES)
    assert sound.described(made)["seconds"] == pytest.approx(30 * 0.08)
    with pytest.raises(ValueError, match="no WAV file of whole numbers"):
        sound.joined([b"RIFF"])


def test_a_stream_is_read_as_text_sound_and_times() -> None:
    piece = base64.b64encode(wav(tone(4))).decode()
    metrics = {"stage_metrics": {"1": {"num_tokens_out": 9}}}
    stream = events(
        chunk("Paris", "text"), chunk(piece, "audio"), chunk(".", "text"), chunk(piece, "audio", metrics=metrics)
    )
    with serving(stream) as (url, asked), httpx.Client(base_url=url) as client:
        answer = speech.ask(client, "model", "What is it?", 7)
    assert (answer.text, len(answer.sounds), answer.codes) == ("Paris.", 2, 9)
    assert answer.first_text is not None
    assert answer.first_sound is not None
    assert answer.first_text <= answer.first_sound <= answer.seconds
    body = json.loads(asked[0])
    assert (body["modalities"], body["temperature"], body["max_tokens"]) == (["text", "audio"], 0, 7)


def test_a_stage_that_dies_while_it_answers() -> None:
    """The words of vLLM-Omni 0.30 after its talker was killed; the stream itself ends as if all were well."""
    stream = events(chunk("Paris", "text"), {"error": {"message": "Stage-1 has no live replica", "code": 500}})
    ended = pytest.raises(Failed, match="the server ended its answer: Stage-1 has no live replica")
    with serving(stream) as (url, _), httpx.Client(base_url=url) as client, ended:
        speech.ask(client, "model", "What is it?", 7)


def test_whose_text_it_is() -> None:
    same = speech.agreement({"a": "one two", "b": "three"}, {"a": "one two", "b": "three"})
    assert same == {"answers": 2, "equal": 2, "alike": 1.0, "differs": None}
    later = speech.agreement({"a": "one two", "b": ""}, {"a": "one too", "b": ""})
    assert (later["equal"], later["differs"]) == (1, "a")
    assert later["alike"] == pytest.approx((5 / 7 + 1) / 2)
    assert speech.agreement({"a": "!!!"}, {"a": "one"})["alike"] == 0.0


def test_nobody_listens_unless_asked() -> None:
    assert job().eval.speech.recognizer is None


def test_a_recognizer_writes_down_what_it_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "answer-1.wav"
    file.write_bytes(wav(tone(4)))
    monkeypatch.setenv(recognizer.KEY, "secret")
    with serving(b'{"text": "the book is on table"}') as (url, asked):
        settings = replace(job().eval.speech, recognizer=f"{url}/v1")
        heard = recognizer.heard(settings, file, "The book is on the table.")
    assert heard == {"text": "the book is on table", "word_error_rate": pytest.approx(1 / 6)}
    assert b"answer-1.wav" in asked[0]
    with serving(b"no", code=401) as (url, _):
        settings = replace(job().eval.speech, recognizer=f"{url}/v1")
        with pytest.raises(Refused, match=r"eval.speech.recognizer=.*QFORGE_RECOGNIZER_KEY, or leave it out"):
            recognizer.heard(settings, file, "The book")
    assert recognizer.word_error_rate("a b c", "a x c d") == pytest.approx(2 / 3)
    assert recognizer.word_error_rate("", "") == 0
