"""A server that listens and whose engine is dead: not waited for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qforge.envs.process import Environment, StageError
from qforge.runtimes import server

DEAD = """import http.server, sys
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503)
        self.end_headers()
print("Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor.", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()"""


def test_a_stage_that_dies_before_all_are_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ILL", 1)
    here, port = Environment(Path(sys.executable), "control", None), server.free_port(None)
    dead = pytest.raises(
        StageError, match=r"(?s)an engine of the server ended while it started: Worker proc .* died .*remedy:"
    )
    with dead, server.running(["-c", DEAD, str(port)], {}, here, port, "key", 600, tmp_path / "log", lambda line: None):
        pass
