"""Run a command and outlive nobody: when the parent of this process dies, end the command and all its children.

`python -m qforge.guard PARENT COMMAND ...`, PARENT being the number of the process that starts it, as the leader of a
process group. A server that is only told by signal that its
parent has died may lose that signal (vLLM 0.32 does, while it starts); this process does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

from qforge.request import die_with

PATIENCE = 15  # seconds between asking and killing


class Stop(Exception):
    """The parent has died, or wants an end."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stop


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    child = None
    try:
        die_with(int(sys.argv[1]))
        child = subprocess.Popen(sys.argv[2:], close_fds=False)  # the locks of the parent live as long as the child
        code = child.wait()
    except Stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
        try:
            if child:
                child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass  # it was asked
        os.killpg(0, signal.SIGKILL)  # whoever is left, and this process
    sys.exit(code if code >= 0 else 128 - code)
