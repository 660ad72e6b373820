"""Code that a model wrote, run where it can reach nothing: in bubblewrap, without network, files of its own, or much time.

The code of an answer is its first block marked as Python, else its first block, else all of it. It is run as a module that
somebody imports, so that what stands below `if __name__ == "__main__"` is not, and its tests in that module; it passes where
they run to their end. In the sandbox are the system's libraries and this Python, read only, and an empty folder that goes with
it. What it prints goes to a file, which may be as long as any other.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import textwrap

SECONDS = 10  # for one answer and its tests
BYTES = 2**30  # of address space
BLOCK = re.compile(r"```(\w*)[^\n]*\n(.*?)(?:```|\Z)", re.S)
LIMITS = (
    "import resource as _r\n"
    f"_r.setrlimit(_r.RLIMIT_AS, ({BYTES},) * 2); _r.setrlimit(_r.RLIMIT_CPU, ({SECONDS},) * 2)\n"
    f"_r.setrlimit(_r.RLIMIT_FSIZE, ({BYTES // 64},) * 2)\n"
)
RUN = (
    "import sys as _s, types as _t\n"
    "_m = _s.modules['answer'] = _t.ModuleType('answer')\n"
    "exec(compile({code!a}, 'answer', 'exec'), _m.__dict__)\n"
    "_m.__name__ = '__main__'\n"
    "exec(compile({tests!a}, 'tests', 'exec'), _m.__dict__)\n"
    "print({word!a})\n"
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
    program = LIMITS + RUN.format(code=code(answer), tests=tests, word=word)
    with tempfile.TemporaryFile() as printed:
        try:
            done = subprocess.run(
                [*_command(), "-"],
                input=program.encode(),
                stdout=printed,
                stderr=subprocess.DEVNULL,
                timeout=2 * SECONDS,
            )
        except subprocess.TimeoutExpired:
            return False
        last = f"{word}\n".encode()
        printed.seek(max(printed.seek(0, os.SEEK_END) - len(last), 0))
        return done.returncode == 0 and printed.read() == last


def code(answer: str) -> str:
    """The code in an answer; a block in a list stands as far in as its list."""
    blocks = [(match[1].lower(), textwrap.dedent(match[2])) for match in BLOCK.finditer(answer)]
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
