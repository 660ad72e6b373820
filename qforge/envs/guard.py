"""Run a command that does not outlive its parent: when the parent of this process dies, end the command and all its children.

`python -m qforge.envs.guard PARENT LAST COMMAND ...`, PARENT being the number of the process that starts it, as the leader of
a process group, and LAST a command that is run when the other has ended, however it did: what removes a container, which is
no child of this process. It may be empty. A server that is only told by signal that its parent has died may lose that signal
(vLLM 0.32 does, while it starts); this process does not.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from types import FrameType

from qforge.envs.lifetime import die_with

PATIENCE = 15  # seconds between asking and killing


class Stop(Exception):
    """The parent has died, or wants an end."""


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the parent's death may follow its word
    raise Stop


def _run(last: list[str]) -> None:
    """In a session of its own, which no signal to this group reaches."""
    if last:
        subprocess.run(last, capture_output=True, start_new_session=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    parent, last, command = int(sys.argv[1]), shlex.split(sys.argv[2]), sys.argv[3:]
    child = None
    try:
        die_with(parent)
        # podman passes a signal on by a helper in its own group, which another signal to that group would end
        group = 0 if last else None
        # the locks of the parent live as long as the child
        child = subprocess.Popen(command, close_fds=False, process_group=group)
        code = child.wait()
        _run(last)
    except Stop:
        if child and last:
            child.terminate()
        else:
            os.killpg(0, signal.SIGTERM)
        try:
            if child:
                child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass  # it was asked
        _run(last)
        os.killpg(0, signal.SIGKILL)  # whoever is left, and this process
    sys.exit(code if code >= 0 else 128 - code)
