"""What the control process tells a stage and hears back: one JSON file each way. Runs in every environment."""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from qforge.config import Job

REFUSED = 2  # exit code of a stage whose input is at fault; <out>/refused.txt says why
NUMBERS = re.compile(r"(?<=\[)\n[-+.\deE,\s]+(?=\])")  # no string holds a line's end as such
API_KEY = "QFORGE_API_KEY"  # how a stage gets the server's key: never through a file


class Refused(ValueError):
    """A stage's input is at fault; the message is for the user. Any other exception is a failure, with its traceback."""


@dataclass
class Request:
    job: Job
    out: str  # folder for the stage's files; it appears in the store when the stage has succeeded
    inputs: dict[str, str] = field(default_factory=dict)  # paths by name: source, artifact, calibration ...
    exempt: list[str] = field(default_factory=list)  # modules to leave in bf16
    simulate: bool = False  # unpack what was packed: nothing serves it
    processes: int = 1  # that share the work, each with a GPU: torchrun starts them
    server: str | None = None  # its base URL; the key is in the environment

    def write(self, file: Path) -> None:
        """As JSON, without secrets: the file is kept with the result."""
        file.write_text(to_json(replace(self, job=without_secrets(self.job))))


def without_secrets(job: Job) -> Job:
    """The job as it may be kept and published."""
    return replace(job, serve=replace(job.serve, api_key=None))


def to_json(value: Any) -> str:
    """Readable JSON of dataclasses and plain data, a list of numbers on one line; NaN and infinity are errors."""
    text = json.dumps(value, indent=2, default=_plain, allow_nan=False, ensure_ascii=False) + "\n"
    return NUMBERS.sub(lambda found: " ".join(found[0].split()), text)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def stage(work: Callable[[Request], dict[str, Any]]) -> None:
    """Run a stage as a process: `python -m qforge.stages.X request.json`; the result goes to <out>/result.json."""
    from pydantic import TypeAdapter

    die_with(os.getppid())
    end_quietly()
    request = TypeAdapter(Request).validate_json(Path(sys.argv[1]).read_text())
    try:
        result = work(request)
        Path(request.out, "result.json").write_text(to_json(result))
    except Refused as refusal:
        Path(request.out, "refused.txt").write_text(str(refusal))
        sys.exit(REFUSED)
    finally:
        gc.freeze()  # nobody needs the libraries taken apart at the end


@contextmanager
def importing() -> Iterator[None]:
    """Imports of large libraries, whose objects stay: looking for garbage among them took a fifth of the time (LOG)."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def end_quietly() -> None:
    """Nothing on stderr once Python and all exit handlers have had their say.

    nanobind, behind Triton, takes what gc.freeze keeps for leaks: its list would be the last words of every log.
    """
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))  # registered first, so it comes last


def die_with(parent: int) -> None:
    """Ask Linux to end this process when its parent, whose number this is, dies; end now if it has died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
