"""Hard limits: a full disk at every stage, no memory, clocks that jump, paths and places that are unusual.

    .venv/bin/python benchmarks/faults/limits.py [--kind stream] [--only WORD ...] [--model FOLDER]       as root

A run goes undisturbed first; what it writes names the stages. Under each limit the same run must come to the same weights, or
end with one line that says why, without a traceback and without half a result; then, the limit gone, it must come to them.
Prints a line for each, the message under it; ends with 1 where something is not so. Needs root for mounts and a memory cgroup;
without libfaketime (Debian: libfaketime) the clocks are left out, which is said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import command  # first: it puts the checkout on sys.path
from death import BRIEF, MADE
from model import tiny_model

KINDS = {
    "stream": ("method=rtn", MADE),
    "calibrated": ("method=gptq", *BRIEF, MADE),
    "served": ("method=rtn", "eval=quick", "bench=quick"),
}
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
LITTLE = 300 << 20  # bytes of memory: enough for the control process, too little for torch


@dataclass
class Place:
    """Where a run puts things; a limit may move them, or put something before the command."""

    folder: Path
    store: Path = field(init=False)
    run: Path = field(init=False)
    home: Path = field(init=False)
    environ: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    during: Callable[[], None] = lambda: None  # each tenth of a second

    def __post_init__(self) -> None:
        self.store, self.run, self.home = (self.folder / name for name in ("store", "run", "home"))
        self.home.mkdir(parents=True)

    def start(self, overrides: list[str]) -> tuple[int, str, float]:
        """Its exit code, what it says, and its seconds."""
        keys = [f"store={_quoted(self.store)}", f"hydra.run.dir={_quoted(self.run)}"]
        line = [*self.before, sys.executable, str(command.ROOT / "run.py"), *overrides, *keys]
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            environ = {**os.environ, "HOME": str(self.home), "COLUMNS": "4000", **self.environ}
            with subprocess.Popen(
                line, env=environ, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT
            ) as process:
                while process.poll() is None:
                    self.during()
                    time.sleep(0.1)
            output.seek(0)
            return process.returncode, output.read().decode(errors="replace"), time.monotonic() - started


def _quoted(path: Path) -> str:
    """As Hydra takes any path."""
    return "'" + str(path).replace("'", r"\'") + "'"


Limit = Callable[[Place, ExitStack], Callable[[], None]]  # sets it up; what comes back takes it away again


def full(folder: Callable[[Place], Path], kib: int) -> Limit:
    """A disk of so many KiB there; freeing space makes it large."""

    def limit(place: Place, stack: ExitStack) -> Callable[[], None]:
        at = folder(place)
        at.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_mounted(at, f"size={kib}k"))
        return lambda: _said("mount", "-o", "remount,size=2g", str(at))

    return limit


def read_only(folder: Callable[[Place], Path]) -> Limit:
    def limit(place: Place, stack: ExitStack) -> Callable[[], None]:
        at = folder(place)
        at.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_mounted(at, "ro"))
        return lambda: _said("mount", "-o", "remount,rw", str(at))

    return limit


def no_shared_memory(place: Place, stack: ExitStack) -> Callable[[], None]:
    """/dev/shm that nobody can write to, for this run alone."""
    place.before = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh"]
    return place.before.clear


def no_memory(place: Place, stack: ExitStack) -> Callable[[], None]:
    """A cgroup that kills whoever needs more than LITTLE."""
    first = Path("/sys/fs/cgroup/memory")
    group = (first if first.is_dir() else first.parent) / f"qforge-{os.getpid()}"
    group.mkdir()
    stack.callback(group.rmdir)
    (group / ("memory.limit_in_bytes" if first.is_dir() else "memory.max")).write_text(str(LITTLE))
    place.before = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    return place.before.clear


def clock(*moments: str) -> Limit:
    """The time of day jumps from one of libfaketime's moments to the next, every two seconds."""

    def limit(place: Place, stack: ExitStack) -> Callable[[], None]:
        file, started = place.folder / "time", time.monotonic()

        def tick() -> None:
            file.write_text(moments[int((time.monotonic() - started) / 2) % len(moments)])

        tick()
        place.during = tick
        place.environ = {
            "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        return place.environ.clear

    return limit


def at(name: str) -> Limit:
    """Store and folder below a folder of this name, and the home, where it can be."""

    def limit(place: Place, stack: ExitStack) -> Callable[[], None]:
        place.store, place.run = (place.folder / name / part for part in ("store", "run"))
        with suppress(OSError):  # too long for this file system
            (home := place.folder / name / "home").mkdir(parents=True)
            place.home = home
        return lambda: None

    return limit


def environ(**variables: str) -> Limit:
    def limit(place: Place, stack: ExitStack) -> Callable[[], None]:
        place.environ = variables
        return lambda: None

    return limit


def limits(stages: dict[str, int]) -> dict[str, Limit]:
    """Every limit by what it is. `stages`: of the undisturbed store, each with its KiB."""
    found = {
        f"the disk is full: {stage}": full(lambda p, s=stage: p.store / s, kib // 2) for stage, kib in stages.items()
    }
    found |= {
        "the disk is full: the run's folder, at its first file": full(lambda p: p.run, 4),
        "the disk is full: the run's folder, in its middle": full(lambda p: p.run, 48),
        "the disk is full: the home": full(lambda p: p.home, 4),
        "the disk is full: TMPDIR": _temporary,
        "no memory": no_memory,
        "a read-only home": read_only(lambda p: p.home),
        "a read-only store": read_only(lambda p: p.store),
        "a read-only folder of the run": read_only(lambda p: p.run),
        "no /dev/shm": no_shared_memory,
        "a path of 1,000 characters": at("/".join(["long" * 25] * 9)),
        "a path of 4,000 characters": at("/".join(["long" * 50] * 19)),
        "a name of 300 characters": at("long" * 75),
        "spaces, quotes and unicode in paths": at("a b'c\"d $HOME é 日本 {x} [y] =z, #"),
        "LANG=C": environ(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
        "LANG=C and unicode in paths": _ascii_and_unicode,
    }
    if FAKETIME.exists():
        found |= {
            "a clock that jumps by a day, to and fro": clock("+0", "-1d", "+1d"),
            "a clock that jumps by forty years": clock("+0", "+40y", "-40y"),
        }
    return found


def _temporary(place: Place, stack: ExitStack) -> Callable[[], None]:
    place.environ = {"TMPDIR": str(place.folder / "tmp")}
    return full(lambda p: p.folder / "tmp", 4)(place, stack)


def _ascii_and_unicode(place: Place, stack: ExitStack) -> Callable[[], None]:
    environ(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")(place, stack)
    return at("é 日本")(place, stack)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    _said("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield
    finally:
        _said("umount", "--lazy", str(folder))


def _said(*line: str) -> str:
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def faults(place: Place, code: int, output: str) -> Iterator[str]:
    """What is wrong with the way in which a run ended under a limit."""
    if "Traceback" in output:
        yield "a traceback"
    if code and len(told := _told(output)) != 1:
        yield f"{len(told)} lines that say why: {output.strip()[-300:]}"
    try:
        halves = [
            *place.store.glob("*/*.partial"),
            *place.run.rglob("*.partial"),
        ]  # not of shards, which the next run goes on with
    except OSError:
        halves = []  # the path is too long to be there
    yield from (f"{half} is left" for half in halves)


def _told(output: str) -> list[str]:
    """The lines that say how it ended."""
    return [line for line in output.splitlines() if line.startswith(("refused:", "failed:"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="stream")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="limits whose names have one of these")
    parser.add_argument("--model", type=Path, help="a folder that tiny.py has made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qforge-limits-") as folder:
        top = Path(folder)
        model = tiny_model(options.model or top / "model")
        overrides = ["model=local", "model.name=tiny", f"model.path={model}", *KINDS[options.kind]]
        calm = Place(top / "calm")
        code, output, seconds = calm.start(overrides)
        assert code == 0, output
        expected = command.weights(calm.run)
        stages = {at.name: int(_said("du", "-sk", str(at)).split()[0]) for at in calm.store.iterdir() if at.is_dir()}
        print(f"undisturbed: {seconds:.0f} s; KiB of each stage: {stages}", flush=True)
        wrong = 0
        for number, (name, limit) in enumerate(limits(stages).items()):
            if any(word in name for word in options.only):
                found = under(Place(top / str(number)), limit, overrides, expected)
                print("\n    ".join([f"{name}: {found[0]}", *found[1:]]), flush=True)
                wrong += len(found) > 2
                shutil.rmtree(top / str(number), ignore_errors=True)
    print(f"{wrong} limits after which something was not as it should be")
    return 1 if wrong else 0


def under(place: Place, limit: Limit, overrides: list[str], expected: dict[str, str]) -> list[str]:
    """How the run ended under the limit and without it, its message, and what was wrong."""
    with ExitStack() as stack:
        away = limit(place, stack)
        code, output, seconds = place.start(overrides)
        said, found = "\n".join(_told(output)), list(faults(place, code, output))
        if code == 0:
            found += [] if command.weights(place.run) == expected else ["other weights"]
            return [f"works ({seconds:.0f} s)", "", *found]
        away()
        if any(name in said for name in ("too long", "hydra.run.dir")):  # no run could be there
            return [f"exit code {code} ({seconds:.0f} s)", said, *found]
        again, output, _ = place.start(overrides)
        if again or command.weights(place.run) != expected:
            found.append(f"again: exit code {again}: {output.strip()[-300:]}")
        return [f"exit code {code} ({seconds:.0f} s), and good again", said, *found]


if __name__ == "__main__":
    sys.exit(main())
