"""Jobs of a sweep side by side on the GPUs of this machine: each in a process that has one GPU and its part of the cores.

As a program (`python -m qforge.sweeps.devices FILE PARENT CORES`) this is such a process: FILE holds what to call, PARENT is
the process of the sweep, CORES are the numbers of its cores.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from qforge.config.places import importable
from qforge.console import console
from qforge.envs.lifetime import die_with
from qforge.json_files import read_json
from qforge.machine import nvidia
from qforge.report.table import verdict_of
from qforge.sweeps.task import Task

LOOK = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True)
class Place:
    """Room for one job: the GPU's name in CUDA_VISIBLE_DEVICES, none on a machine without; and numbers of cores."""

    device: str | None
    cores: tuple[int, ...]


def places(rows: int) -> list[Place]:
    """Room for `rows` jobs on each GPU that this process may use, GPU after GPU, so that the first jobs are spread over them.

    Raises ValueError for no room at all.
    """
    if not isinstance(rows, int) or rows < 1:
        raise ValueError(
            f"hydra.launcher.rows={rows}: must be a whole number, 1 or more, of rows at a time on each GPU"
        )
    given = os.environ.get(nvidia.VISIBLE)
    names = given.split(",") if given else [str(number) for number in range(len(nvidia.devices()))]
    devices: list[str | None] = [name.strip() for name in names] or [None]
    cores = sorted(os.sched_getaffinity(0))
    share = max(len(cores) // len(devices), 1)
    own = [tuple(cores[number * share :][:share] or cores) for number in range(len(devices))]
    return [Place(device, part) for _ in range(rows) for device, part in zip(devices, own, strict=True)]


def run(tasks: Sequence[Task], calls: Sequence[tuple[Any, ...]], places: Sequence[Place]) -> None:
    """Run the call of each task, in the order given, wherever there is room; each ends as a row."""
    waiting, free = list(zip(tasks, calls, strict=True)), list(places)
    running = dict[Place, list[tuple[Task, subprocess.Popen[bytes]]]]()
    try:
        while waiting or any(running.values()):
            while waiting and free:
                task, call = waiting.pop(0)
                place = free.pop(0)
                running.setdefault(place, []).append((task, _start(task, call, place)))
            time.sleep(LOOK)
            for place, here in running.items():
                for task, process in [pair for pair in here if pair[1].poll() is not None]:
                    here.remove((task, process))
                    free.append(place)
                    _settle(task, process.returncode)
    except KeyboardInterrupt:
        processes = [process for here in running.values() for _, process in here]
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()
        console.print("interrupted; what was finished is kept", style="yellow")
        raise


def _start(task: Task, call: tuple[Any, ...], place: Place) -> subprocess.Popen[bytes]:
    folder = task.folder.parent / ".jobs"
    folder.mkdir(parents=True, exist_ok=True)
    (task.folder / "row.json").unlink(missing_ok=True)  # of an earlier sweep: it shall not pass for a new one
    file = folder / f"{task.number}.pickle"
    file.write_bytes(cloudpickle.dumps(call))
    path = os.pathsep.join(filter(None, [str(importable()), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path} | ({nvidia.VISIBLE: place.device} if place.device else {})
    command = [sys.executable, "-u", "-m", __name__, str(file), str(os.getpid()), ",".join(map(str, place.cores))]
    console.print(f"{task.number} begins on {place.device or 'the CPU'}: {' '.join(task.overrides)}", style="dim")
    with _log(task).open("wb") as log:
        return subprocess.Popen(
            command, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _log(task: Task) -> Path:
    """What the job prints."""
    return task.folder.parent / ".jobs" / f"{task.number}.log"


def _settle(task: Task, code: int) -> None:
    """A job has ended: say how, by its row; one that left none gets one that says why."""
    file = task.folder / "row.json"
    if not file.exists() and code:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        task.leave("failed", f"its process ended {how} (it printed to {_log(task)})")
    how = verdict_of(read_json(file)) if file.exists() else "done"  # of a plan there is no row
    console.print(f"{task.number} {how}: {' '.join(task.overrides)}", style="dim")


def main(file: str, parent: str, cores: str) -> None:
    """The job's own process."""
    die_with(int(parent))
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    work, *arguments = pickle.loads(Path(file).read_bytes())
    work(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
