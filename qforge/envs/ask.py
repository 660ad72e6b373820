"""Ask a module in an environment something, and hear JSON on its last line."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from qforge.envs import process
from qforge.envs.process import Environment

SECONDS = 300  # importing vLLM takes 5 s on a quiet machine and a minute on a busy disk


def ask(environment: Environment, module: str, *arguments: str) -> dict[str, Any]:
    """What `python -m module ARGUMENTS` prints there. Whatever goes wrong in somebody else's interpreter is its `fault`."""
    command = ["-m", module, *arguments]
    with process.process(environment, command, {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": ""}) as child:
        try:
            output = child.communicate(timeout=SECONDS)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            return {"fault": f"no answer within {SECONDS} s"}
    lines = output.strip().splitlines() or [""]
    answer = next((line for line in reversed(lines) if line.startswith("{")), None)  # libraries may speak at their end
    if child.returncode or not answer:
        return {"fault": f"exit code {child.returncode}: {lines[-1][-200:]}"}
    content: dict[str, Any] = json.loads(answer)
    return content
