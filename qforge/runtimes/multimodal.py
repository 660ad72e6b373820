"""Ask a served model about a sound and an image that are made here: do its towers answer, not only its text?"""

from __future__ import annotations

import base64
import io
import math
import struct
import wave
import zlib
from typing import Any

import httpx

from qforge.runtimes.diagnose import ServerFailed
from qforge.runtimes.server import Server
from qforge.runtimes.vllm import MODEL

QUESTION = "What is this?"
RATE = 16_000  # samples per second, what audio towers are trained on
SIDE = 64  # pixels


def ask(server: Server, hears: bool, sees: bool) -> dict[str, Any]:
    """What the model answers about a tone and about a picture, by "audio" and "image", greedily.

    What the server does not take (`limit_mm_per_prompt=0`, a chat template without a place for it) is its own words as
    `refused`. Raises ServerFailed where it fails, answers nothing, or counts no token for what was sent.
    """
    tone = {"type": "input_audio", "input_audio": {"data": _text(_wav()), "format": "wav"}}
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_text(_png())}"}}
    parts = {name: part for name, part, can in (("audio", tone, hears), ("image", picture, sees)) if can}
    if not parts:
        return {}
    with httpx.Client(base_url=server.base_url, headers=server.headers, timeout=300, trust_env=False) as client:
        plain = _reply(client, [])
        return {name: _answer(server, name, _reply(client, [part]), plain) for name, part in parts.items()}


def _reply(client: httpx.Client, parts: list[dict[str, Any]]) -> httpx.Response:
    content = [*parts, {"type": "text", "text": QUESTION}]
    messages = [{"role": "user", "content": content}]
    return client.post(
        "/v1/chat/completions", json={"model": MODEL, "temperature": 0, "max_tokens": 16, "messages": messages}
    )


def _answer(server: Server, name: str, reply: httpx.Response, plain: httpx.Response) -> dict[str, Any]:
    if reply.status_code == 400:
        return {"refused": reply.text[:300]}
    said = reply.raise_for_status().json()
    text, tokens = said["choices"][0]["message"]["content"], said["usage"]["prompt_tokens"]
    if not (text or "").strip():
        raise ServerFailed(f"the model answers nothing to {name}, and to text it does", server.log)
    if plain.status_code == 200:
        tokens -= plain.json()["usage"]["prompt_tokens"]
        if tokens <= 0:
            raise ServerFailed(
                f"no token of the prompt stands for the {name}: its chat template leaves it out", server.log
            )
    return {"question": QUESTION, "answer": text, "tokens": tokens}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _wav(seconds: float = 1.0, hertz: float = 440.0) -> bytes:
    """A tone, 16 bits, one channel."""
    samples = [round(8000 * math.sin(2 * math.pi * hertz * n / RATE)) for n in range(round(seconds * RATE))]
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return out.getvalue()


def _png() -> bytes:
    """A square of SIDE x SIDE pixels, red above and blue below (PNG specification, sections 11.2.2 and 9.2: no filter)."""
    rows = [b"\0" + (b"\xff\0\0" if row < SIDE // 2 else b"\0\0\xff") * SIDE for row in range(SIDE)]
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
