"""Servers that hang, answer garbage, answer slowly or not at all: the hub that a model comes from, and the run's own server.

    .venv/bin/python benchmarks/faults/servers.py

Each must end within LONGEST with one line that says of whom, without a traceback. The hub is asked by a plan; the run's server
by the client that scores a model, whose patience is set to seconds here. Ends with 1 where something is not so.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import command  # first: it puts the checkout on sys.path

from qforge.config.compose import compose
from qforge.config.places import CONF
from qforge.envs.request import API_KEY, Failed, Request
from qforge.evaluation import scorers

LONGEST = 120.0  # seconds
PATIENCE = 3.0  # of the client that scores, in place of its 900 s
DRIPS = 30  # seconds, until the answer is over
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


def hangs(peer: socket.socket) -> None:
    time.sleep(2 * LONGEST)


def drips(peer: socket.socket) -> None:
    """A byte of its head each second."""
    for byte in OK[:DRIPS]:
        peer.sendall(bytes([byte]))
        time.sleep(1)


def says(answer: bytes) -> Callable[[socket.socket], None]:
    return lambda peer: peer.sendall(answer)


def page(content: bytes, length: int | None = None) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % (len(content) if length is None else length) + content


KINDS: dict[str, Callable[[socket.socket], None]] = {
    "hangs": hangs,
    "drips": drips,
    "closes": lambda peer: None,
    "says no HTTP": says(bytes(range(256)) * 16),
    "says a page of HTML": says(page(b"<html><body>Welcome to the hotel</body></html>")),
    "says nothing": says(page(b"")),
    "says a list": says(page(b"[1, 2]")),
    "says null": says(page(b"null")),
    "says an object of something else": says(page(b'{"hello": "world", "choices": 1}')),
    "ends in the middle": says(page(b'{"sha": "0', 5000)),
    "says 500": says(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
}


@contextmanager
def served(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on the loopback that answers every connection so. Yields its address."""

    def one(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            peer.recv(65536)
            answer(peer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def hub(place: command.Place, address: str) -> str:
    """How a plan ends whose model is there; what is wrong with that comes first."""
    model = ("model=local", "model.name=x", "model.hub=somebody/something", "plan_only=true", "method=rtn")
    ended = place.run(*model, environ={"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"})
    lines = [line for line in ended.output.splitlines() if line.startswith("refused: ")]
    good = ended.code == 2 and len(lines) == 1 and "model.hub" in lines[0] and "Traceback" not in ended.output
    return lines[0] if good else f"WRONG: exit code {ended.code}: {ended.output.strip()[-500:]}"


def own(address: str) -> str:
    """How a request of the client that scores ends."""
    import httpx

    server = scorers.Server(Request(compose(CONF), "", server=address))
    try:
        return f"WRONG: {scorers.content_of(server.post('/v1/completions', {'prompt': [1, 2]}, PATIENCE))}"
    except Failed as failure:
        return str(failure)
    except httpx.HTTPError as error:  # the control process asks whether the server has ended, and says so
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def main() -> int:
    os.environ[API_KEY], wrong = "key", 0
    with tempfile.TemporaryDirectory(prefix="qforge-servers-") as folder:
        place = command.Place(Path(folder))
        for kind, answer in KINDS.items():
            with served(answer) as address:
                for who, ask in {"hub": lambda to: hub(place, to), "run's server": own}.items():
                    started = time.monotonic()
                    said, seconds = ask(address), time.monotonic() - started
                    wrong += said.startswith("WRONG") or seconds > LONGEST
                    print(f"the {who} {kind} ({seconds:.0f} s): {said}", flush=True)
    print(f"{2 * len(KINDS)} tried, {wrong} that did not end as they should")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
