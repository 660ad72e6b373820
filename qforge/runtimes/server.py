"""A server as a process: started, waited for until it is well, asked for its state, ended with all its processes."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from qforge.envs import process
from qforge.envs.process import Environment, StageError
from qforge.machine.usage import members
from qforge.runtimes.diagnose import ServerFailed

ILL = 10  # times in a row that a server may say that its engine is dead (503); one of several engines may die before all are up


@dataclass
class Server:
    """A running server and what it said of itself."""

    base_url: str
    api_key: str
    process: subprocess.Popen[bytes]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """Of its processes, as it says itself: in a container that is not the group of the command that started it."""
        match = re.search(r"^process group (\d+)$", self.log.read_text(errors="replace"), re.MULTILINE)
        return int(match[1]) if match else self.process.pid

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


@contextmanager
def running(
    command: list[str], environ: Mapping[str, str], environment: Environment, port: int, key: str, timeout: int, log: Path,
    feed: Callable[[str], None],
) -> Iterator[Server]:  # fmt: skip
    """The server that `command` starts on 127.0.0.1, well. Raises StageError with a diagnosis where it does not come to that,
    or ends while it is used. `timeout`: seconds until it must answer."""
    started = time.monotonic()
    with log.open("wb") as output, process.process(environment, command, environ, output.fileno()) as child:
        server = Server(f"http://127.0.0.1:{port}", key, child, log)
        _wait(server, timeout, feed)
        server.facts = {"start_seconds": time.monotonic() - started}
        try:
            yield server
        except (httpx.HTTPError, StageError) as error:
            if _gone(server):  # then what the client says is not the cause
                raise ServerFailed("the server ended while it was used", log) from None
            if isinstance(error, httpx.HTTPError):
                reason = f"{type(error).__name__} {error}".strip()
                raise ServerFailed(f"the server's answer is not valid ({reason})", log) from None
            raise


def _health(server: Server, seconds: float) -> int:
    """The status of its answer. Raises httpx.TransportError where there is none in time."""
    return httpx.get(f"{server.base_url}/health", headers=server.headers, timeout=seconds, trust_env=False).status_code


def _gone(server: Server, patience: float = 10) -> bool:
    """Whether the server has ended, or its engine has: a client notices first, and the API server lingers."""
    deadline = time.monotonic() + patience
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            if _health(server, patience) == httpx.codes.OK:
                return False
        except httpx.ReadTimeout:
            return False  # it hangs
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return True


def free_port(port: int | None) -> int:
    """`port`, or a free one for none. Raises ValueError where no server can listen on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just left is free
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise ValueError(
                f"serve.port={port}: {error.strerror}; choose another, or leave it out for a free one"
            ) from None
        return int(probe.getsockname()[1])


def _wait(server: Server, seconds: int, feed: Callable[[str], None]) -> None:
    deadline, ill = time.monotonic() + seconds, 0
    with server.log.open(errors="replace") as log:
        while server.process.poll() is None:
            for line in log.readlines():
                feed(line)
            try:
                status = _health(server, 5)
                if status == httpx.codes.OK:
                    return
                ill = ill + 1 if status == httpx.codes.SERVICE_UNAVAILABLE else 0
            except httpx.TransportError:
                pass  # not listening yet
            if ill > ILL:
                raise ServerFailed("an engine of the server ended while it started", server.log)
            if time.monotonic() > deadline:
                processes = _processes(server.group)
                raise ServerFailed(
                    f"the server did not answer within runtime.start_timeout={seconds} s; {processes}", server.log
                )
            time.sleep(0.5)
    raise ServerFailed("the server ended while it started", server.log)


def _processes(group: int) -> str:
    """What the server's processes are doing, as psutil names it: stopped, sleeping, running."""
    states = []
    for member in members(group):
        with suppress(psutil.Error):  # it has ended meanwhile
            states.append(f"{member.name()} {member.status()}, {sum(member.cpu_times()[:2]):.0f} s of CPU")
    return "its processes: " + "; ".join(states)


def wait_for_end(server: Server) -> None:
    """Wait as long as the server runs. Raises StageError when it ends by itself; `serving` adds the diagnosis."""
    server.process.wait()
    raise StageError("serve: the server ended")
