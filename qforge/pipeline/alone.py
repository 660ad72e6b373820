"""One measurement at a time on the same devices: two servers at once would spoil each other's speed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from time import monotonic

from qforge.config.job import Job, Vendor
from qforge.console import print_waiting
from qforge.machine import nvidia
from qforge.pipeline.run import Run
from qforge.store.locks import locked


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """Wait until no other job that shares the store measures on a device of this one, and keep them off."""
    with _held(run, beside=False):
        yield


@contextmanager
def whole(run: Run) -> Iterator[None]:
    """For everything that a server is started for: alone, but where it shares its devices, which takes them step by step."""
    with nullcontext() if run.job.serve.shared else alone(run):
        yield


@contextmanager
def step(run: Run) -> Iterator[None]:
    """Of a job that shares its devices one step, beside the steps of other such jobs and outside what they time."""
    with _held(run, beside=True) if run.job.serve.shared else nullcontext():
        yield


def turns(run: Run) -> list[tuple[str, bool]]:
    """For a stage that times something: Request.devices. None where the job has its devices by itself already (`whole`)."""
    return [(str(file), shared) for file, shared in _files(run)] if run.job.serve.shared else []


@contextmanager
def same(run: Run, key: str) -> Iterator[None]:
    """Wait until no other job measures the same checkpoint in the same way: then its results are there."""
    started = monotonic()
    with locked(run.store.root / f"measuring-{key}.lock", waiting=lambda: print_waiting("the same measurement")):
        run.time.waited += monotonic() - started
        yield


@contextmanager
def _held(run: Run, beside: bool) -> Iterator[None]:
    started = monotonic()
    with ExitStack() as held:
        for file, shared in _files(run):
            waiting = partial(print_waiting, "the devices of this machine")
            # a server that began in a step lives on, and holds nothing while others are timed
            held.enter_context(locked(file, shared or beside, waiting, left=not run.job.serve.shared))
        run.time.waited += monotonic() - started
        yield


def _files(run: Run) -> list[tuple[Path, bool]]:
    """The files of `locks`."""
    here = f"measuring-{socket.gethostname()}"
    return [(run.store.root / f"{here}-{name}.lock", shared) for name, shared in locks(run.job, os.environ)]


def locks(job: Job, environ: Mapping[str, str]) -> list[tuple[str, bool]]:
    """What a measurement locks, and whether with others: every GPU that it may use, and the machine, which jobs on different
    GPUs share. A job on the CPU has the machine by itself, and so has one whose GPUs cannot be told.

    All take them in this order, so that no two wait for each other.
    """
    variables = {**environ, **job.runtime.environ}
    if job.hw.vendor is Vendor.nvidia:
        gpus = nvidia.visible(variables)
    else:
        gpus = amd_visible(variables) if job.hw.vendor is Vendor.amd else None
    return [("machine", True), *((gpu, False) for gpu in gpus)] if gpus else [("machine", False)]


def amd_visible(environ: Mapping[str, str]) -> list[str] | None:
    """AMD's GPUs by their numbers, as ROCm reads its variables: HIP's are numbers among those that ROCR leaves.

    None where they cannot be told, which is for all of them and for UUIDs.
    """
    rocr = environ.get("ROCR_VISIBLE_DEVICES")
    hip = environ.get("HIP_VISIBLE_DEVICES", environ.get(nvidia.VISIBLE))  # HIP reads CUDA's where its own is not set
    lists = [[entry.strip() for entry in given.split(",")] for given in (rocr, hip) if given is not None]
    if not lists or not all(entry.isdigit() for entries in lists for entry in entries):
        return None
    numbers = [int(entry) for entry in lists[0]]
    if len(lists) == 2:
        numbers = [numbers[int(entry)] for entry in lists[1] if int(entry) < len(numbers)]
    return [f"amd-{number}" for number in sorted(set(numbers))]
