"""A server's log to cause and remedy. The first 58 patterns are those of vLLM 0.33's source; `evidence` says which ran."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qforge.envs.output import words
from qforge.envs.process import StageError

PATTERNS = Path(__file__).with_name("vllm_errors.json")
SHOWN, LAST_WORDS = 400, 5  # characters of a line, lines
# How vLLM's log marks a line of a process that the server started; of a traceback the last line begins with the error's class
SPOKEN = re.compile(r"^\((?P<process>(?:EngineCore|\w*Worker)[^)]*)\) ERROR .*?\] (?P<said>.*)$", re.M)
RAISED = re.compile(r"(?:(?:\w+\.)+[A-Z]\w*|\w+(?:Error|Exception|Exit|Interrupt))(?::.*)?")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
WRAPPERS = ("wrapper_engine",)  # says only that something above it went wrong


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong: the pattern's id, the line that matched, why, and what to do."""

    id: str
    line: str
    cause: str
    remedy: str


class ServerFailed(StageError):
    """A server that did not start, or ended, or does not answer: what happened, why, what to do, the last lines of its log."""

    def __init__(self, message: str, log: Path) -> None:
        text = log.read_text(errors="replace")
        self.diagnosis = diagnosis = diagnose(text)
        parts = [f"serve: {message}"]
        if diagnosis:
            parts[0] += f": {diagnosis.line[:SHOWN]}"
            parts += [f"  cause: {diagnosis.cause}", f"  remedy: {diagnosis.remedy}"]
        elif said := engines_error(text):
            parts[0] += f": {said[:SHOWN]}"
        last = words(text.splitlines())[-LAST_WORDS:]
        parts += ["  last lines of its log:", *(f"    {line[:SHOWN]}" for line in last), f"  (log: {log})"]
        super().__init__("\n".join(parts))


def diagnose(log: str) -> Diagnosis | None:
    """The known error whose line comes first in `log`; later ones follow from it. Of two on one line the catalogue's first."""
    matches = [(match.end(), entry) for entry, pattern in _patterns() if (match := pattern.search(log))]
    lines = [(log.rfind("\n", 0, end) + 1, entry) for end, entry in matches]
    if not lines:
        return None
    start, entry = min(lines, key=lambda pair: pair[0])
    return Diagnosis(entry["id"], log[start:].partition("\n")[0].strip(), entry["cause"], entry["remedy"])


def engines_error(log: str) -> str | None:
    """What the first of vLLM's own processes that failed ended with; the server's last lines, of another process, lack it."""
    spoken = SPOKEN.finditer(COLOURS.sub("", log))
    raised = [(line["process"], line["said"].strip()) for line in spoken if RAISED.fullmatch(line["said"].strip())]
    return [said for process, said in raised if process == raised[0][0]][-1] if raised else None


@cache
def _patterns() -> list[tuple[dict[str, str], re.Pattern[str]]]:
    entries = json.loads(PATTERNS.read_text())
    return [(entry, re.compile(entry["match"])) for entry in entries if entry["id"] not in WRAPPERS]
