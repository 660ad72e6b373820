"""Code that a model wrote, run where it can reach nothing: in bubblewrap, without network, files of its own, or much time.

The code of an answer is its first block marked as Python, else its first block, else all of it. It passes where its tests run
to their end. In the sandbox are the system's libraries and this Python, read only, and an empty folder that goes with it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys

SECONDS = 10  # for one answer and its tests
BYTES = 2**30  # of address space
BLOCK = re.compile(r"```(\w*)[^\n]*\n(.*?)(?:```|\Z)", re.S)
LIMITS = (
    "import resource as _r\n"
    f"_r.setrlimit(_r.RLIMIT_AS, ({BYTES},) * 2); _r.setrlimit(_r.RLIMIT_CPU, ({SECONDS},) * 2)\n"
    f"_r.setrlimit(_r.RLIMIT_FSIZE, ({BYTES // 64},) * 2)\n"
)


def fault() -> str | None:
    """Why no code can be run here; none where it can."""
    if shutil.which("bwrap") is None:
        return "there is no bubblewrap"
    done = subprocess.run([*_command(), "-c", "print(1)"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"bubblewrap does not work ({done.stderr.strip().splitlines()[-1:]})"


def passes(answer: str, tests: str) -> bool:
    """Whether the code in an answer passes its tests."""
    word = secrets.token_hex(8)
    program = f"{LIMITS}{code(answer)}\n{tests}\nprint({word!r})\n"
    try:
        done = subprocess.run(
            [*_command(), "-"], input=program, capture_output=True, text=True, errors="replace", timeout=2 * SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and done.stdout.endswith(f"{word}\n")


def code(answer: str) -> str:
    """The code in an answer."""
    blocks = [(match[1].lower(), match[2]) for match in BLOCK.finditer(answer)]
    return next((text for kind, text in blocks if kind in ("python", "py")), blocks[0][1] if blocks else answer)


def _command() -> list[str]:
    """Python in the sandbox, with what it needs to start."""
    python = os.path.realpath(sys.executable)
    links = [("usr/lib", "/lib"), ("usr/lib64", "/lib64"), ("usr/bin", "/bin")]
    return [
        "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--ro-bind", "/usr", "/usr",
        *(part for link in links for part in ("--symlink", *link)), "--ro-bind", sys.base_prefix, sys.base_prefix,
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp", python, "-I",
    ]  # fmt: skip
