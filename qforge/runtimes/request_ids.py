"""A middleware of vLLM's server: each request's id begins with this server's mark, and so do the names of what it leaves.

vLLM-Omni hands results from stage to stage in shared memory that is named after the request. What a stage has not read when
the server ends would stay until the machine starts anew; by the mark it is known whose it is (shared_memory.py).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import uuid4

VARIABLE = "QFORGE_MARK"  # of the server's environment
HEADER = b"x-request-id"

Scope = MutableMapping[str, Any]


class Marked:
    """An ASGI application that gives each request its id, whatever the client says."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """As ASGI calls it."""
        if scope["type"] == "http":
            others = [header for header in scope["headers"] if header[0] != HEADER]
            identity = f"{os.environ[VARIABLE]}-{uuid4().hex}"
            scope = {**scope, "headers": [*others, (HEADER, identity.encode())]}
        await self.app(scope, receive, send)
