"""Results are complete or absent, made once, and nobody waits for the dead."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from qforge.store.locks import locked
from qforge.store.results import Store, key_of, seconds


def test_a_result_is_built_once_and_found_again(tmp_path: Path) -> None:
    store, built = Store(tmp_path), []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "result.json").write_text("{}")

    first, known = store.get("stage", {"a": 1}, build)
    again, found = store.get("stage", {"a": 1}, build)
    other, _ = store.get("stage", {"a": 2}, build)
    assert (known, found) == (False, True)
    assert first == again != other
    assert len(built) == 2
    assert store.find("stage", {"a": 1}) == first
    assert '"a": 1' in (first / "key.json").read_text()


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Store(tmp_path).get("stage", 1, build)
    assert Store(tmp_path).find("stage", 1) is None
    assert not list(tmp_path.rglob("half"))


def test_seconds_that_were_spent_on_waiting_are_not_a_results_own(tmp_path: Path) -> None:
    waited = [7.0]
    folder, _ = Store(tmp_path).get("stage", 1, lambda _: waited.append(1e6), waited=lambda: waited[-1])
    assert seconds(folder) < -9e5


def test_the_key_does_not_depend_on_the_order_of_its_parts() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 1.5})


def _count(root: str, log: str) -> None:
    def build(folder: Path) -> None:
        time.sleep(0.3)
        with open(log, "a") as stream:
            stream.write("built\n")
        (folder / "result.json").write_text("{}")

    Store(Path(root)).get("stage", "same", build)


def _hang(root: str, started: str) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        Path(started).write_text("yes")
        time.sleep(600)

    Store(Path(root)).get("stage", "same", build)


def test_eight_jobs_at_once_build_it_once(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    jobs = [multiprocessing.Process(target=_count, args=(str(tmp_path / "store"), log)) for _ in range(8)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert Path(log).read_text() == "built\n"


def test_a_killed_builder_blocks_nobody(tmp_path: Path) -> None:
    root, started, log = str(tmp_path / "store"), tmp_path / "started", str(tmp_path / "log")
    victim = multiprocessing.Process(target=_hang, args=(root, str(started)))
    victim.start()
    deadline = time.monotonic() + 60
    while not started.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(victim.pid or 0, signal.SIGKILL)
    victim.join()
    assert Store(Path(root)).find("stage", "same") is None
    _count(root, log)
    found = Store(Path(root)).find("stage", "same")
    assert found
    assert not (found / "half").exists()


def test_a_shared_lock_keeps_an_exclusive_one_out(tmp_path: Path) -> None:
    import fcntl

    file = tmp_path / "lock"
    with locked(file, shared=True), locked(file, shared=True), file.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with file.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
