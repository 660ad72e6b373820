"""A judge of chat as a real HTTP server, which says what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Api(ThreadingHTTPServer):
    """An API whose `says` makes (status, content) of the messages it is sent, which it keeps."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sent: list[str] = []
        self.says: Callable[[str], tuple[int, str]] = lambda text: (200, completion("[[5]]"))
        self.headers: dict[str, str] = {}  # of every answer


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "\n".join(message["content"] for message in body["messages"])
        self.server.sent.append(text)
        code, content = self.server.says(text)
        self.send_response(code)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: Any) -> None:
        pass


def completion(text: str) -> str:
    return json.dumps({"choices": [{"message": {"content": text}}]})


@contextmanager
def serving() -> Iterator[Api]:
    """The server, as long as it is needed."""
    with Api() as served:
        threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
        yield served
        served.shutdown()
