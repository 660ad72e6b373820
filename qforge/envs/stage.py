"""Run one stage as a process in its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from qforge.envs.output import pieces, words
from qforge.envs.process import Environment, StageError, end_group, process
from qforge.envs.request import API_KEY, FAILED, REFUSED, Refused, Request

KILLED = 128 + signal.SIGKILL  # as the guard says it


def run_stage(
    name: str, environment: Environment, request: Request, log: Path, feed: Callable[[str], None], api_key: str = "",
    server: subprocess.Popen[bytes] | None = None,
) -> None:  # fmt: skip
    """Run `qforge.stages.<name>` in `environment`; its output goes to `log` and, piece by piece, to `feed`.

    `server` is the server that the stage sends requests to: when it ends, the stage is ended too. Raises Refused where the
    stage refused its input, ValueError for a full disk, StageError where it failed.
    """
    out, last = Path(request.out), list[str]()
    request.write(file := out / "request.json")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.processes}"]
    command = [*(torchrun if request.processes > 1 else []), "-m", f"qforge.stages.{name}", str(file)]
    # threads that spin while they wait cost everybody on busy cores, themselves too (LOG, 2026-11-25)
    environ = {API_KEY: api_key, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    with (
        log.open("w", buffering=1) as stream,
        process(environment, command, environ) as child,
        _ending_with(server, child),
    ):
        assert child.stdout is not None
        for piece, ended in pieces(child.stdout.fileno()):
            feed(piece)
            if ended:  # an update of a bar, which ends in \r, is for the eye only
                stream.write(piece + "\n")
                last = [*last[-20:], *words([piece])]
        code = child.wait()
    if code == REFUSED and (out / "refused.txt").exists():
        raise Refused((out / "refused.txt").read_text())
    if code == FAILED and (out / "failed.txt").exists():
        raise StageError(f"{name} failed: {(out / 'failed.txt').read_text()}  (log: {log})")
    if code:
        if any("No space left on device" in text for text in last):
            raise ValueError(f"store={out.parent.parent}: the disk is full; free some space and run again")
        if code == KILLED:
            raise StageError(
                f"{name} was killed: by hand, or by the system for lack of memory; run again  (log: {log})"
            )
        last_line = last[-1] if last else "it said nothing"
        raise StageError(f"{name} failed (exit code {code}): {last_line}  (log: {log})")


@contextmanager
def _ending_with(server: subprocess.Popen[bytes] | None, child: subprocess.Popen[bytes]) -> Iterator[None]:
    """End `child` when the server has ended. Part of it may linger, and lets those who have asked it wait without end."""
    done = threading.Event()

    def watch() -> None:
        while server and not done.wait(0.5):
            if server.poll() is not None:
                return end_group(child)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(watch)
        try:
            yield
        finally:
            done.set()
