"""What was asked and answered, written down at once: a run that is killed, or asks more, asks only what is not there."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Journal:
    """A file with an answer a line, under a hash of all that was sent. Threads and processes may share it: what another process
    writes later is not seen, and asked again at worst."""

    def __init__(self, file: Path) -> None:
        self.file, self.writing, self.answers = file, threading.Lock(), _known(file)

    def find(self, asked: Any) -> Record | None:
        """The answer to this, if it is there; `asked`: as it is sent, plain data."""
        return self.answers.get(_key(asked))

    def keep(self, asked: Any, answer: Record) -> None:
        """Write an answer down."""
        key = _key(asked)
        with self.writing:
            self.answers[key] = answer
            with self.file.open("a") as file:
                file.write(json.dumps({"key": key, "answer": answer}) + "\n")


def _key(asked: Any) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]


def _known(file: Path) -> dict[str, Record]:
    """What earlier runs were answered; a last line that was cut off when its run was killed is none."""
    answers, text = {}, file.read_text()
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        answers[entry["key"]] = entry["answer"]
    if text and not text.endswith("\n"):
        with file.open("a") as more:
            more.write("\n")
    return answers
