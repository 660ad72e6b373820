"""Environments and the processes that run in them: one pinned folder each, made by uv, never changed while in use."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from qforge import progress
from qforge.config import ROOT
from qforge.containers import Container
from qforge.output import pieces, words
from qforge.request import API_KEY, REFUSED, Request
from qforge.store import HELD, locked

VENVS = ROOT / ".venvs"
NETWORK = re.compile(r"error sending request|dns error|Could not connect|Connection refused|timed out|offline", re.I)


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


def requirements(name: str) -> Path:
    """The pinned list of a managed environment. Raises ValueError for an unknown one."""
    file = ROOT / "envs" / f"{name}.txt"
    if not file.is_file() or name.endswith(".overrides"):
        known = sorted(f.stem for f in file.parent.glob("*.txt") if not f.stem.endswith(".overrides"))
        raise ValueError(f"env={name}: no such environment; choose from {', '.join(known)}")
    return file


def identity(name: str) -> str:
    """What decides the versions of a managed environment, without making it."""
    return f"{name}-{hashlib.sha256(requirements(name).read_bytes()).hexdigest()[:12]}"


def managed(name: str) -> Environment:
    """The environment pinned in envs/<name>.txt, made on first use. Half-made or outdated ones are made anew."""
    file = requirements(name)
    folder, lock = VENVS / name, VENVS / f"{name}.lock"
    environment = Environment(folder / "bin" / "python", identity(name), lock)
    ready = folder / "qforge.ready"  # written last: what lacks it is half-made
    if _reads(ready) == environment.identity and environment.python.exists():
        return environment
    with locked(lock, waiting=lambda: progress.waiting(f"the environment {name}")):
        if _reads(ready) != environment.identity or not environment.python.exists():
            if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":  # on a compute node there may be no network
                raise ValueError(
                    f"env={name}: not made, and jobs on a cluster make none; make it where you submit: "
                    f".venv/bin/python -m qforge.envs {name}"
                )
            _make(name, file, folder)
            ready.write_text(environment.identity)
    return environment


def _reads(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def _make(name: str, file: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    target = ["--python", str(folder / "bin" / "python"), "--no-deps", "--compile-bytecode"]
    log = folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    count = sum(1 for line in file.read_text().splitlines() if "==" in line)
    with progress.line("env", f"making {name} ({count} packages, once)") as line:
        for arguments in (
            ["venv", "--python", sys.executable, str(folder)],
            # the list is complete, so nothing is resolved again: what is pinned is what is installed
            ["pip", "install", *target, "-r", str(file)],
            # qforge's own vLLM plugin is found through its entry point
            ["pip", "install", *target, "--editable", str(ROOT)],
        ):
            if _uv(arguments, log):
                shutil.rmtree(folder, ignore_errors=True)
                raise _install_failure(name, log)
        line.note = f"made {name} ({count} packages)"


def _uv(arguments: list[str], log: Path) -> int:
    """Run uv, which lies in the control environment, adding its words to `log`; returns its exit code."""
    environ = {}
    if "PIP_FIND_LINKS" in os.environ:  # where pip finds local wheels, uv shall find them too
        environ = {"UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS", os.environ["PIP_FIND_LINKS"])}
    here = Environment(Path(sys.executable), "control", None)
    with log.open("ab") as output, process(here, ["-m", "uv", *arguments], environ, output.fileno()) as child:
        return child.wait()


def _install_failure(name: str, log: Path) -> Exception:
    text = log.read_text()
    if NETWORK.search(text):
        return ValueError(
            f"env={name}: the package index cannot be reached, and this environment is not made yet; connect once and "
            f"run `make envs` (uv's own words: {log})"
        )
    if "No space left on device" in text:
        return ValueError(f"env={name}: the disk is full ({VENVS}); free some space and run again")
    return StageError(f"env {name}: uv failed: {' '.join(text.split()[-40:])}  (log: {log})")


def install_packages(packages: list[str], folder: Path, log: Path) -> None:
    """Unpack pinned PyPI packages into `folder`, without their dependencies. Raises ValueError where it cannot."""
    if _uv(["pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages], log):
        text = log.read_text()
        if "No space left on device" in text:
            raise ValueError(f"store={folder}: the disk is full; free some space and run again")
        raise ValueError(f"model.gguf.packages={packages}: cannot be fetched: {' '.join(text.split())[-300:]}")


@contextmanager
def process(
    environment: Environment, arguments: list[str], environ: Mapping[str, str], output: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in `environment`, in a group of its own that is ended, whatever happens, with the block."""
    with locked(environment.lock, shared=True) if environment.lock else nullcontext():
        own = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "no_proxy": _no_proxy()}
        own |= {**environment.environ, **environ}
        # qforge itself, then theirs
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), own.get("PYTHONPATH")]))
        env = {**os.environ, **own}
        # run-time compilers look for ninja and for their own tools on PATH
        env["PATH"] = f"{environment.python.parent}{os.pathsep}{env.get('PATH', '')}"
        env.pop("VIRTUAL_ENV", None)
        python, last = str(environment.python), list[str]()
        command = [python, *arguments]
        if environment.container:
            command, last = environment.container.start(arguments, own)
        child = subprocess.Popen(
            [python, "-m", "qforge.guard", str(os.getpid()), shlex.join(last), *command],
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
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    return given if given == "*" else ",".join(filter(None, [given, "127.0.0.1"]))


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


def run_stage(
    name: str, environment: Environment, request: Request, log: Path, feed: Callable[[str], None], api_key: str = "",
    server: subprocess.Popen[bytes] | None = None,
) -> None:  # fmt: skip
    """Run `qforge.stages.<name>` in `environment`; its output goes to `log` and, piece by piece, to `feed`.

    `server` is whom it asks: when that ends, so does the stage. Raises ValueError where the stage refused its input,
    StageError where it failed.
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
        raise ValueError((out / "refused.txt").read_text())
    if code:
        if any("No space left on device" in text for text in last):
            raise ValueError(f"store={out.parent.parent}: the disk is full; free some space and run again")
        said = last[-1] if last else "it said nothing"
        raise StageError(f"{name} failed (exit code {code}): {said}  (log: {log})")


@contextmanager
def _ending_with(server: subprocess.Popen[bytes] | None, child: subprocess.Popen[bytes]) -> Iterator[None]:
    """End `child` when the server has ended. Part of it may linger, and lets those who have asked it wait for ever."""
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


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(managed(wanted).python)
