"""In the quantizer's environment: a stage's request, with a model that brings its own code along, answered by every reader of
its tokenizer. Prints, as JSON on the last line, what each read or why it did not.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from lm_eval.api.registry import get_model
from pydantic import TypeAdapter

from qforge.envs.request import API_KEY, Request
from qforge.evaluation.scorers import Server
from qforge.stages.calibrate import calibrate
from qforge.stages.evaluate import evaluate


class Models(BaseHTTPRequestHandler):
    """What vLLM's server says of the model that it serves."""

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "model", "max_model_len": 777}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not among the answers."""


def served(request: Request) -> dict[str, Any]:
    """The tokenizer that lm-eval reads for the server, and the context that the server says."""
    server = HTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ[API_KEY] = "key"
    name, arguments = Server(replace(request, server=f"http://127.0.0.1:{server.server_port}")).for_lm_eval()
    model = get_model(name)(**arguments)
    server.shutdown()
    return {"tokenizer": type(model.tokenizer).__name__, "max_length": arguments["max_length"]}


def answer(work: Any, request: Request) -> Any:
    try:
        return work(request)
    except (ValueError, OSError) as error:  # transformers refuses code that nobody trusts
        return {"refused": str(error)[:300]}


if __name__ == "__main__":
    asked = TypeAdapter(Request).validate_json(Path(sys.argv[1]).read_text())
    print(json.dumps({work.__name__: answer(work, asked) for work in (calibrate, evaluate, served)}, default=str))
