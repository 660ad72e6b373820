"""A stage's turns on devices that jobs share: beside what other jobs do there, or alone, while it is timed.

A stage that times takes its turns itself, since only it knows when it is ready: its imports and its warm-up need no quiet
device, and should keep nobody waiting who does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

from qforge.envs.request import Request
from qforge.store.locks import locked

WAITED = "waited.txt"  # in the stage's folder while it runs: seconds, one line for each turn


@contextmanager
def turn(request: Request, timed: bool = False) -> Iterator[None]:
    """Hold `request.devices` for the block: beside others, outside what they time, or, where it is `timed`, alone.

    Others may begin steps beside each other while this stage waits to be alone, so it waits until none is left. That ends: a
    row that waits here begins nothing else, and so many rows at a time all come here. To let none begin meanwhile would idle
    the devices until the longest step has ended, a server's start of minutes, and makes a sweep longer (LOG, 2026-11-30).
    """
    started = monotonic()
    with ExitStack() as held:
        for file, shared in request.devices:
            held.enter_context(locked(Path(file), shared or not timed, _say_that_it_waits))
        if request.devices:
            with Path(request.out, WAITED).open("a") as stream:
                stream.write(f"{monotonic() - started}\n")
        yield


def waited(out: Path) -> float:
    """Seconds that a stage which has ended waited for its turns; 0 for one that took none. What said it is gone then."""
    file = out / WAITED
    seconds = sum(map(float, file.read_text().split())) if file.exists() else 0.0
    file.unlink(missing_ok=True)
    return seconds


def _say_that_it_waits() -> None:
    print("waiting for another job that has the devices of this machine", flush=True)
