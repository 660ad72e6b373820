"""A Hugging Face hub on this machine: what it has, whom it knows, where it breaks, and all that it was asked."""

from __future__ import annotations

import hashlib
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.hub_answers import Answers, Asked, Repository
from support.hub_uploads import CdnTakes, HubTakes

from qforge.models import hub


class Hub:
    """What it has, whom it knows, where it breaks, and all that it was asked."""

    def __init__(self, home: Path) -> None:
        self.home = home  # Hugging Face's folder of those who ask it: cache and token
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()  # that it knows; any other is refused
        self.writers: set[str] = set()  # of these, who may write
        self.large: dict[str, bytes] = {}  # large files that were uploaded, by their sha256
        self.commits_fail = 0  # how many of the next commits do not come about
        self.cut: dict[str, list[int]] = {}  # bytes after which the next answers with a file break off
        self.sizes: dict[str, int] = {}  # bytes that its list gives a file, whatever it has
        self.refusal: tuple[int, str] | None = None  # status and message that it gives to everything
        self.asked: list[Asked] = []
        # two hosts: by their names a client knows where its token may go
        self._servers = [self._server("127.0.0.1", HubTakes), self._server("127.0.0.2", CdnTakes)]
        self.endpoint, self.cdn = (f"http://{s.server_address[0]}:{s.server_port}" for s in self._servers)

    def commit(self, name: str, folder: Path, ref: str = "main") -> str:
        """Let `name` be at the state of `folder`, and `ref` stand for it; returns the commit."""
        repository = self.repositories.setdefault(name, Repository())
        commit = hashlib.sha1(f"{folder} {len(repository.commits)}".encode()).hexdigest()
        repository.commits[commit] = folder
        repository.refs[ref] = commit
        return commit

    def environ(self, token: str = "", **more: str) -> dict[str, str]:
        """What sends a process here, with a token or without."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # a protocol of the real hub alone
            **more,
        }

    def stand_in(self, monkeypatch: pytest.MonkeyPatch, token: str = "") -> None:
        """Send this process and those that it starts here, and forget what was asked. A new one reads `environ` once."""
        for name, value in self.environ(token).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(self.home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(self.home / "hub"))
        for function in vars(hub).values():
            getattr(function, "cache_clear", lambda: None)()

    def fetched(self, host: str | None = None) -> list[Asked]:
        """The answers that carried a file or a part of one."""
        files = [a for a in self.asked if a.method == "GET" and "/api/" not in a.path and a.sent]
        return [a for a in files if host in (None, a.host)]

    def _server(self, address: str, handler: type[Answers]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer((address, 0), type(handler.__name__, (handler,), {"hub": self}))
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        return server

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
