"""Spoken answers: questions asked of a server that speaks, how soon and fast it does, and whether it says what it should."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from qforge.config.places import given_path
from qforge.config.speech import STAGES, TALKER
from qforge.envs.request import Failed

TIMEOUT = 900.0  # seconds for an answer, as of every other request of an evaluation


@dataclass
class Answer:
    """What a server streamed: text, WAV files that follow one another, and when, in seconds from the question on."""

    text: str = ""
    sounds: list[bytes] = field(default_factory=list)
    first_text: float | None = None
    first_sound: float | None = None
    seconds: float = 0.0
    codes: int | None = None  # steps of the talker, as the server says

    def hear(self, chunk: Mapping[str, Any], at: float) -> None:
        """Take in one message of the stream. Raises Failed where that says that the answer will not come."""
        if error := chunk.get("error"):
            raise Failed(f"the server ended its answer: {error.get('message', error)}")
        metrics = (chunk.get("metrics") or {}).get("stage_metrics") or {}
        talker = metrics.get(str(STAGES.index(TALKER))) or {}
        self.codes = talker.get("num_tokens_out", self.codes)
        for choice in chunk.get("choices", []):
            content = choice.get("delta", {}).get("content")
            if not content:
                continue
            if chunk.get("modality") == "audio":
                self.first_sound = at if self.first_sound is None else self.first_sound
                self.sounds.append(base64.b64decode(content))
            else:
                self.first_text = at if self.first_text is None else self.first_text
                self.text += content


def questions(file: str) -> list[str]:
    """The lines of a file that are not blank."""
    return [line for line in given_path(file).read_text().splitlines() if line.strip()]


def body(model: str, question: str, tokens: int) -> dict[str, Any]:
    """A request for the greedy answer in text, as plain vLLM takes it too."""
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": tokens}


def ask(client: httpx.Client, model: str, question: str, tokens: int) -> Answer:
    """Ask a server for text and sound. Raises httpx.HTTPError where it does not answer, Failed where it answers in part."""
    spoken = {"modalities": ["text", "audio"], "stream": True, "return_stage_metrics": True}
    answer, started = Answer(), time.monotonic()
    with client.stream(
        "POST", "/v1/chat/completions", json={**body(model, question, tokens), **spoken}, timeout=TIMEOUT
    ) as reply:
        if reply.is_error:
            reply.read()
        reply.raise_for_status()
        for chunk in _events(reply.iter_lines()):
            answer.hear(chunk, time.monotonic() - started)
    answer.seconds = time.monotonic() - started
    return answer


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The messages of a stream of server-sent events."""
    for line in lines:
        data = line.removeprefix("data: ")
        if data != line and data != "[DONE]":
            yield json.loads(data)


def agreement(spoken: Mapping[str, str], plain: Mapping[str, str]) -> dict[str, Any]:
    """How many answers have the same text as plain vLLM's, and with which part of it the answers begin alike, on average."""
    shares = {question: _alike(spoken[question], plain[question]) for question in spoken}
    return {
        "answers": len(shares),
        "equal": sum(share == 1.0 for share in shares.values()),
        "alike": sum(shares.values()) / len(shares),
        "differs": next((question for question, share in shares.items() if share < 1.0), None),
    }


def _alike(one: str, other: str) -> float:
    """The part of the longer text with which both begin."""
    longest = max(len(one), len(other))
    same = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return same / longest if longest else 1.0
