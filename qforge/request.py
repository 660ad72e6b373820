"""What the control process tells a stage and hears back: one JSON file each way. Runs in every environment."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from qforge.config import Job

REFUSED = 2  # exit code of a stage whose input is at fault; its last line on stderr says why


@dataclass
class Request:
    job: Job
    out: str  # folder for the stage's files; it appears in the store when the stage has succeeded
    inputs: dict[str, str] = field(default_factory=dict)  # paths by name: source, artifact, calibration ...
    exempt: list[str] = field(default_factory=list)  # modules to leave in bf16
    server: dict[str, str] = field(default_factory=dict)  # base_url, api_key, pid

    def write(self, file: Path) -> None:
        file.write_text(to_json(self))


def to_json(value: Any) -> str:
    """Readable JSON of dataclasses and plain data; NaN and infinity are errors."""
    return json.dumps(value, indent=2, default=_plain, allow_nan=False, ensure_ascii=False) + "\n"


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

    die_with_parent()
    request = TypeAdapter(Request).validate_json(Path(sys.argv[1]).read_text())
    try:
        result = work(request)
    except ValueError as error:
        if request.job.debug:
            raise
        sys.exit(_refuse(error))
    Path(request.out, "result.json").write_text(to_json(result))


def _refuse(error: ValueError) -> int:
    print(str(error).replace("\n", " "), file=sys.stderr)
    return REFUSED


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, so that a killed run leaves no orphan."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
