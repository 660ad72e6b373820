"""A process in an environment, in a group of its own that ends with it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from qforge.config import secrets
from qforge.config.places import PROJECT_VARIABLE, importable, project
from qforge.envs.containers import Container
from qforge.store.locks import HELD, locked


class StageError(Exception):
    """A stage failed; the message is for the user and ends with where the log is."""


@dataclass(frozen=True)
class Environment:
    """A Python that stages run in."""

    python: Path
    identity: str  # what decides its versions: part of the key of every result made in it
    lock: Path | None  # held shared while something runs in it
    environ: Mapping[str, str] = field(default_factory=dict)  # that it needs, such as where its packages lie
    container: Container | None = None  # runs a Python of its own; `python` then runs the guard beside it


@contextmanager
def process(
    environment: Environment, arguments: list[str], environ: Mapping[str, str | None], output: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in `environment`, in a group of its own that is ended, whatever happens, with the block.

    A variable of `environ` that is None is taken away from it.
    """
    with locked(environment.lock, shared=True) if environment.lock else nullcontext():
        own = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "no_proxy": _no_proxy()}
        own[PROJECT_VARIABLE] = str(project())
        given = {name: value for name, value in environ.items() if value is not None}
        own |= secrets.revealed({**environment.environ, **given})
        # qforge itself, then theirs
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(importable()), own.get("PYTHONPATH")]))
        env = {**os.environ, **own}
        # run-time compilers look for ninja and for their own tools on PATH
        env["PATH"] = f"{environment.python.parent}{os.pathsep}{env.get('PATH', '')}"
        for name in {"VIRTUAL_ENV", *environ} - given.keys():
            env.pop(name, None)
        python, last = str(environment.python), list[str]()
        command = [python, *arguments]
        if environment.container:
            command, last = environment.container.start(arguments, own)
        child = subprocess.Popen(
            [python, "-m", "qforge.envs.guard", str(os.getpid()), shlex.join(last), *command],
            env=env,
            stdout=output if output is not None else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=tuple(HELD),
        )
        try:
            yield child
        finally:
            end_group(child)


def _no_proxy() -> str:
    """The hosts that are asked directly, this one among them: stages ask their server on the loopback."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    return hosts if hosts == "*" else ",".join(filter(None, [hosts, "127.0.0.1"]))


def end_group(child: subprocess.Popen[bytes], patience: float = 20) -> None:
    """End every process of the child's group: ask, wait, then kill. Returns when none is left."""
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        _signal_group(child.pid, sign)
        while _signal_group(child.pid, 0) and time.monotonic() < deadline:
            child.poll()  # reaped, it can leave the group
            time.sleep(0.05)
    child.wait()


def _signal_group(group: int, sign: int) -> bool:
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True
