"""The server's key is asked for on every route; a server of vLLM's own is asked in pipeline/test_pipeline.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qforge.runtimes.server_key import ServerKey


def asked(monkeypatch: pytest.MonkeyPatch, header: bytes | None, **scope: Any) -> list[dict[str, Any]]:
    """What a client hears."""
    monkeypatch.setenv("VLLM_API_KEY", "the key")
    said: list[dict[str, Any]] = []

    async def app(*_: Any) -> None:
        said.append({"app": True})

    async def send(message: Any) -> None:
        said.append(dict(message))

    async def receive() -> dict[str, Any]:
        return {}

    headers = [] if header is None else [(b"Authorization", header)]
    asyncio.run(ServerKey(app)({"type": "http", "method": "GET", "headers": headers, **scope}, receive, send))
    return said


@pytest.mark.parametrize(
    "path", ["/metrics", "/docs", "/openapi.json", "/health", "/tokenize", "/invocations", "/v1/models", "//v1"]
)
def test_no_route_answers_without_the_key(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    for header in (
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer the ke",
        b"Bearer the key ",
        b"Basic the key",
        b"the key",
        b"Bearer \xff",
    ):
        said = asked(monkeypatch, header, path=path)
        assert said[0]["status"] == 401, header
    assert asked(monkeypatch, b"Bearer the key", path=path) == [{"app": True}]
    assert asked(monkeypatch, b"bearer the key", path=path) == [{"app": True}]


def test_what_is_no_request_for_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, None, type="lifespan") == [{"app": True}]
    assert asked(monkeypatch, None, method="OPTIONS") == [{"app": True}]
    assert asked(monkeypatch, None, type="websocket") == [{"type": "websocket.close", "code": 1008}]
