"""The store can be listed and freed while jobs run: they keep what they use and what they make."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.command import ROOT

from qforge.json_files import read_json, write_json
from qforge.store import locks
from qforge.store.freeing import entries, free
from qforge.store.results import Store

# a job: it has a result, or makes one, says so and stays
JOB = """
import sys, time
from pathlib import Path
from qforge.store.results import Store

def build(out):
    (out / "weights").write_text("x" * 1000)
    if sys.argv[2] == "makes":
        print("ready", flush=True)
        time.sleep(100)

Store(Path(sys.argv[1])).get("quantize", {"key": 1}, build)
print("ready", flush=True)
time.sleep(100)
"""


@contextmanager
def running(store: Path, does: str) -> Iterator[subprocess.Popen[str]]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", JOB, str(store), does]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def made(store: Path, key: int = 1, size: int = 1000) -> Path:
    folder, _ = Store(store).get("quantize", {"key": key}, lambda out: _write(out, size), "smollm2_135m, gptq")
    locks.release()
    return folder


def _write(out: Path, size: int) -> None:
    (out / "weights").write_text("x" * size)


def command(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qforge.store", *arguments, "--store", str(store)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_list_says_what_is_there(tmp_path: Path) -> None:
    small, large = made(tmp_path), made(tmp_path, 2, 5_000_000)
    os.link(large / "weights", tmp_path / "in a run folder")
    lines = command(tmp_path).stdout.splitlines()
    assert [next(i for i, line in enumerate(lines) if folder.name in line) for folder in (large, small)] == [1, 2]
    assert lines[1].split()[:5] == ["quantize", large.name, "0.005", "0.005", "0.0"]
    assert "smollm2_135m, gptq" in lines[1]
    assert (read_json(large / "made.json")["qforge"]["commit"] or "")[:8] in lines[1]
    assert "2 entries, 0.005 GB; 0.005 GB of them are also in run folders" in lines[-1]


def test_what_a_job_uses_is_kept_and_what_nobody_uses_is_freed(tmp_path: Path) -> None:
    folder, other = made(tmp_path), made(tmp_path, 2)
    with running(tmp_path, "uses"):
        done = command(tmp_path, "free", folder.name, other.name)
        assert f"kept: quantize {folder.name}: a running job uses it" in done.stdout
        assert "freed 1 of 2 entries" in done.stdout
        assert folder.exists()
        assert not other.exists()
    assert "freed 1 of 1 entries" in command(tmp_path, "free", folder.name).stdout, "the job was killed"
    assert entries(tmp_path) == []
    assert made(tmp_path).exists(), "and it can be made again"


def test_what_a_job_makes_is_kept_and_what_a_dead_one_left_is_freed(tmp_path: Path) -> None:
    with running(tmp_path, "makes"):
        (entry,) = entries(tmp_path)
        assert entry.subject == "unfinished (partial)"
        assert not free(entry)
    assert command(tmp_path, "free", "--unfinished").stdout.startswith("freed 1 of 1 entries")
    assert entries(tmp_path) == []


def test_a_process_of_a_killed_job_keeps_what_it_uses(tmp_path: Path) -> None:
    """A server outlives its killed control process for a moment."""
    folder = made(tmp_path)
    code = """
import subprocess, sys
from pathlib import Path
from qforge.store.locks import HELD
from qforge.store.results import Store
Store(Path(sys.argv[1])).find("quantize", {"key": 1})
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=0, pass_fds=tuple(HELD))
print(child.pid, flush=True)
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    ) as process:
        assert process.stdout
        assert process.stdin
        child = int(process.stdout.readline())
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        (entry,) = entries(tmp_path)
        assert not free(entry)
        assert folder.exists()
        process.stdin.close()  # the child ends
        while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
            pass
    assert free(entry)


def test_by_stage_and_age(tmp_path: Path) -> None:
    old, new = made(tmp_path), made(tmp_path, 2)
    (tmp_path / "serve" / "k").mkdir(parents=True)
    write_json(tmp_path / "serve" / "k" / "made.json", {})
    os.utime(old / "made.json", (0, 0))
    assert "freed 1 of 1 entries" in command(tmp_path, "free", "--stage", "quantize", "--older", "30").stdout
    assert (old.exists(), new.exists(), (tmp_path / "serve" / "k").exists()) == (False, True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "choose what to free: KEY ..., --stage STAGE"), (["nope"], "no result has the key nope")],
)
def test_free_without_a_word_or_with_a_wrong_key_frees_nothing(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    folder = made(tmp_path)
    done = command(tmp_path, "free", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert folder.exists()
