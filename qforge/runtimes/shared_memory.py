"""What a server that has ended leaves in shared memory, which is memory until the machine starts anew."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from qforge.machine.usage import members

FOLDER = Path("/dev/shm")
BUFFERS = "psm_"  # how Python names segments that are given no name: buffers between the processes of an engine


def held(group: int) -> set[Path]:
    """The buffers that processes of a group have mapped. Killed, they leave them."""
    found = set()
    for member in members(group):
        with suppress(OSError):  # it has ended meanwhile
            lines = Path(f"/proc/{member.pid}/maps").read_text().splitlines()
            found |= {
                Path(line.partition("/")[1] + line.partition("/")[2]) for line in lines if f"{FOLDER}/{BUFFERS}" in line
            }
    return found


def free(mark: str, buffers: Iterable[Path]) -> int:
    """Remove what is named after requests with this mark (request_ids.py), lock files too, and these buffers. Returns how many
    files that were."""
    left = [file for file in {*FOLDER.glob(f"*{mark}*"), *buffers} if file.exists()]
    for file in left:
        file.unlink(missing_ok=True)
    return len(left)
