"""The server's key on every route. vLLM asks for it below /v1, /v2, /inference and /cohere alone
(entrypoints/serve/middleware/authenticate.py in 0.32), so that /metrics, /docs, /tokenize and /invocations needed none.

Imported by vLLM, in other people's environments too: nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
REFUSED = b'{"error": "this server asks for its key on every route: Authorization: Bearer KEY"}'
POLICY_VIOLATION = 1008  # of a websocket: RFC 6455, 7.4.1


class ServerKey:
    """ASGI middleware: `--middleware qforge.runtimes.server_key.ServerKey`. A browser's question before its request (OPTIONS),
    which never has a key, is passed on; it reaches nothing but the answer of what is allowed."""

    def __init__(self, app: App) -> None:
        self.app, self.digest = app, _digest(os.environ["VLLM_API_KEY"].encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket") or scope.get("method") == "OPTIONS" or self._knows(scope["headers"]):
            return await self.app(scope, receive, send)
        if kind == "websocket":
            return await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": REFUSED})

    def _knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = next((value for name, value in headers if name.lower() == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        return scheme.lower() == b"bearer" and secrets.compare_digest(_digest(key), self.digest)


def _digest(key: bytes) -> bytes:
    """Of one length whatever the key, so that comparing takes as long."""
    return hashlib.sha256(key).digest()
