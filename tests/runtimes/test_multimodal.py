"""What a server is asked at its start, of text, sounds and pictures, and what its answers mean."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import threading
import wave
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from qforge.runtimes import multimodal, vllm
from qforge.runtimes.diagnose import ServerFailed
from qforge.runtimes.server import Server

Says = Callable[[list[dict[str, Any]]], tuple[int, dict[str, Any]]]


@contextmanager
def answering(says: Says, log: Path) -> Iterator[Server]:
    """A server that gives the parts of a user's turn to `says`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, said = says(body["messages"][0]["content"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: Any) -> None:
            pass

    log.touch()
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process = cast("subprocess.Popen[bytes]", None)
        yield Server(f"http://127.0.0.1:{server.server_port}", "key", process, log)
        server.shutdown()


def answer(text: str, tokens: int) -> tuple[int, dict[str, Any]]:
    return 200, {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": tokens}}


def test_a_tone_and_a_picture_are_sent_and_counted(tmp_path: Path) -> None:
    sent = []

    def says(parts: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        sent.extend(parts)
        return answer("a square", 5 + 20 * (len(parts) - 1))

    with answering(says, tmp_path / "log") as server:
        found = multimodal.ask(server, hears=True, sees=True)
        assert multimodal.ask(server, hears=False, sees=False) == {}
    assert found["audio"] == found["image"] == {"question": "What is this?", "answer": "a square", "tokens": 20}
    with wave.open(io.BytesIO(base64.b64decode(sent[1]["input_audio"]["data"]))) as tone:
        assert (tone.getnchannels(), tone.getframerate(), tone.getnframes()) == (1, 16_000, 16_000)
        assert any(tone.readframes(100))
    picture = base64.b64decode(sent[3]["image_url"]["url"].partition("base64,")[2])
    assert picture.startswith(b"\x89PNG")
    begin = picture.index(b"IDAT") + 4
    assert len(zlib.decompress(picture[begin:])) == 64 * (1 + 3 * 64)


def test_what_the_server_does_not_take_is_no_failure(tmp_path: Path) -> None:
    with answering(lambda parts: (400, {"error": "At most 0 image(s) may be provided"}), tmp_path / "log") as server:
        assert "At most 0 image(s)" in multimodal.ask(server, hears=False, sees=True)["image"]["refused"]


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [(" ", 20, "the model answers nothing to image"), ("words", 0, "no token of the prompt stands for the image")],
)
def test_an_image_without_effect(text: str, tokens: int, words: str, tmp_path: Path) -> None:
    def says(parts: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        return answer(text if len(parts) > 1 else "words", 5 + tokens * (len(parts) - 1))

    with answering(says, tmp_path / "log") as server, pytest.raises(ServerFailed, match=words):
        multimodal.ask(server, hears=False, sees=True)


@pytest.mark.parametrize("second", ["The capital of France is Paris.", "It is Paris, on the river Seine."])
def test_a_greedy_answer_that_changes_is_said_and_garbage_is_refused(second: str, tmp_path: Path) -> None:
    texts = ["The capital of France is Paris.", second, second, "the the the the the the the the the the the the"]
    with answering(lambda _: answer(texts.pop(0), 5), tmp_path / "log") as server:
        asked = vllm.canary(server)
        with pytest.raises(ServerFailed, match="the same words repeated: the checkpoint is damaged"):
            vllm.canary(server)
    assert asked["answer"] == "The capital of France is Paris."
    assert asked["same_twice"] == (second == asked["answer"])
    assert asked.get("second", asked["answer"]) == second
