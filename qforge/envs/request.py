"""What the control process tells a stage and hears back: one JSON file each way. Runs in every environment."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qforge.config.job import Job
from qforge.envs.lifetime import die_with, end_quietly
from qforge.json_files import write_json
from qforge.models.core import Core

REFUSED = 2  # exit code of a stage whose input is at fault; <out>/refused.txt says why
FAILED = 3  # exit code of a stage that failed for a reason that it can tell; <out>/failed.txt does
API_KEY = "QFORGE_API_KEY"  # how a stage gets the server's key: never through a file


class Refused(ValueError):
    """A stage's input is at fault; the message is for the user. Any other exception is a failure, with its traceback."""


class Failed(Exception):
    """The work failed for a reason that is known; the message is for the user, and no traceback is needed."""


@dataclass
class Request:
    job: Job
    out: str  # folder for the stage's files; it appears in the store when the stage has succeeded
    inputs: dict[str, str] = field(default_factory=dict)  # paths by name: source, artifact, calibration ...
    exempt: list[str] = field(default_factory=list)  # modules to leave in bf16
    kept: list[str] = field(default_factory=list)  # tensors that must be the source's, digit for digit
    core: Core | None = None  # the part that a library quantizes, where it cannot read the whole model
    simulate: bool = False  # unpack what was packed: nothing serves it
    processes: int = 1  # that share the work, each with a GPU: torchrun starts them
    server: str | None = None  # its base URL; the key is in the environment
    # what a stage that times takes turns on (turns.py): lock files, and whether it shares each even then; none: it has its own
    devices: list[tuple[str, bool]] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """As JSON, which is kept with the result: the job has names of secrets only."""
        write_json(file, self)


def stage(work: Callable[[Request], dict[str, Any]]) -> None:
    """Run a stage as a process: `python -m qforge.stages.X request.json`; the result goes to <out>/result.json."""
    from pydantic import TypeAdapter

    die_with(os.getppid())
    end_quietly()
    request = TypeAdapter(Request).validate_json(Path(sys.argv[1]).read_text())
    try:
        result = work(request)
        write_json(Path(request.out, "result.json"), result)
    except Refused as refusal:
        Path(request.out, "refused.txt").write_text(str(refusal))
        sys.exit(REFUSED)
    except Failed as failure:
        Path(request.out, "failed.txt").write_text(str(failure))
        sys.exit(FAILED)
    finally:
        gc.freeze()  # the libraries need not be taken apart at the end
