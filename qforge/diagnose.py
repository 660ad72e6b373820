"""A server's log to cause and remedy. The patterns were taken from vLLM 0.33's source; see vllm_errors.json."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

PATTERNS = Path(__file__).with_name("vllm_errors.json")
WRAPPERS = ("wrapper_engine",)  # says only that something above it went wrong


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong: the pattern's id, the line that matched, why, and what to do."""

    id: str
    line: str
    cause: str
    remedy: str


def diagnose(log: str) -> Diagnosis | None:
    """The first known error in `log`, reading from its top: later ones follow from it."""
    patterns = [(e, re.compile(e["match"])) for e in json.loads(PATTERNS.read_text()) if e["id"] not in WRAPPERS]
    for line in log.splitlines():
        for entry, pattern in patterns:
            if pattern.search(line):
                return Diagnosis(entry["id"], line.strip(), entry["cause"], entry["remedy"])
    return None
