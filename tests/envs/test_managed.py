"""Environments: made whole, made once, remade when broken; and the processes in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.command import ROOT
from support.processes import until

from qforge.config.job import Job
from qforge.envs import managed, process, stage
from qforge.envs.process import Environment, StageError
from qforge.envs.request import Request

HERE = Environment(Path(sys.executable), "tests", None)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real environment of one package, in a folder of its own."""
    pins = tmp_path / "tiny.txt"
    pins.write_text("idna==3.20\n")
    monkeypatch.setattr(managed, "VENVS", tmp_path / "venvs")
    monkeypatch.setattr(managed, "requirements", lambda name: pins)
    return pins


def has(environment: Environment, module: str) -> bool:
    return subprocess.run([environment.python, "-c", f"import {module}"], capture_output=True).returncode == 0


def test_made_once_and_again_when_the_pins_change(tiny: Path) -> None:
    first = managed.managed("tiny")
    assert has(first, "idna")
    assert has(first, "qforge")
    made = (first.python.parent.parent / "qforge.ready").stat().st_mtime_ns
    assert managed.managed("tiny") == first
    assert (first.python.parent.parent / "qforge.ready").stat().st_mtime_ns == made
    tiny.write_text("sniffio==1.3.1\n")
    second = managed.managed("tiny")
    assert second.identity != first.identity
    assert has(second, "sniffio")
    assert not has(second, "idna")


def test_a_half_made_environment_is_made_anew(tiny: Path) -> None:
    made = managed.managed("tiny")
    folder = made.python.parent.parent
    (folder / "qforge.ready").unlink()  # as a kill in the middle leaves it
    for file in folder.rglob("idna/__init__.py"):
        file.unlink()
    assert has(managed.managed("tiny"), "idna")
    made.python.unlink()
    assert has(managed.managed("tiny"), "idna")


def test_no_network_is_said_in_one_line(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(ValueError, match=r"env=tiny: the package index cannot be reached.*make envs"):
        managed.managed("tiny")
    assert not (managed.VENVS / "tiny").exists()


def test_a_half_made_environment_of_an_older_version_is_made_anew(tiny: Path) -> None:
    """It was ready by the rules of its time, or broke off: folders and files that nobody expects are no matter."""
    folder = managed.VENVS / "tiny"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to("/nowhere/python3.10")
    (folder / "lib64").symlink_to("lib")
    (folder / "qforge.ready").write_text("tiny-0123456789ab")
    assert has(managed.managed("tiny"), "idna")
    (folder / "qforge.ready").write_text(managed.identity("tiny")[:-1])
    (folder / "bin" / "python").unlink()
    assert has(managed.managed("tiny"), "idna")


def test_two_that_want_one_environment_make_it_once(tiny: Path) -> None:
    script = f"""if True:
        from pathlib import Path
        from qforge.envs import managed
        managed.VENVS, managed.requirements = Path({str(managed.VENVS)!r}), lambda name: Path({str(tiny)!r})
        print(managed.managed("tiny").python)"""
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("making tiny" in text for text in said) == 1
    assert sum("waiting" in text for text in said) == 1
    assert has(managed.managed("tiny"), "idna")


def test_the_pins_of_this_python(tiny: Path) -> None:
    tiny.write_text(
        "numpy==2.4.6 ; python_full_version < '3.12'\nnumpy==2.5.5 ; python_full_version >= '3.12'\nidna==3.20\n"
    )
    assert managed.pins("tiny") == {"numpy": "2.4.6" if sys.version_info < (3, 12) else "2.5.5", "idna": "3.20"}


def test_a_compute_node_makes_no_environment(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")  # as submitit does in the jobs it starts
    with pytest.raises(
        ValueError,
        match=r"env=tiny: it does not exist, and a job on a compute node makes no environment; submit the job again",
    ):
        managed.managed("tiny")
    assert not (managed.VENVS / "tiny").exists()


def test_an_unknown_environment_names_the_known_ones() -> None:
    known = (
        "auto_gptq, auto_round, autoawq, bitsandbytes, control, dev, docs, gptqmodel, mlflow, quant, vllm, vllm_cpu, "
        "vllm_cpu_multimodal, vllm_omni, vllm_omni_cpu"
    )
    with pytest.raises(ValueError, match=f"env=quantt: no such environment; choose from {known}$"):
        managed.requirements("quantt")


def test_the_whole_group_ends_with_the_block() -> None:
    """A child that ignores SIGTERM, and a grandchild: both are gone afterwards."""
    grandchild = "import time; time.sleep(600)"
    code = f"""if True:
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen([sys.executable, "-c", "{grandchild}"]).pid, flush=True)
        time.sleep(600)"""
    envs_patience = process.end_group.__defaults__
    process.end_group.__defaults__ = (1.0,)
    try:
        with process.process(HERE, ["-c", code], {}) as child:
            assert child.stdout
            pid = int(child.stdout.readline())
            assert psutil.pid_exists(pid)
    finally:
        process.end_group.__defaults__ = envs_patience
    assert child.returncode is not None
    assert not psutil.pid_exists(pid)


def test_who_asks_a_server_ends_with_it() -> None:
    """vLLM's API server may linger without its engine: an evaluation waited for its answers for ever."""
    waiting = ["-c", "import time; time.sleep(600)"]
    with subprocess.Popen(["sleep", "1"]) as server, process.process(HERE, waiting, {}) as child:
        with stage._ending_with(server, child):
            assert child.wait(60) != 0
        assert server.poll() == 0


def test_a_killed_owner_takes_its_processes_along(tmp_path: Path) -> None:
    """Even one whose child ignores the signal that its parent died, as vLLM does while it starts."""
    child = tmp_path / "child.py"
    child.write_text(
        "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    owner = f"""if True:
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from qforge.envs import process
        with process.process(process.Environment(Path(sys.executable), "x", None), [{str(child)!r}], {{}}):
            time.sleep(600)"""
    process = subprocess.Popen([sys.executable, "-c", owner])
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 40
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not psutil.pid_exists(pid)


def test_a_guard_whose_parent_died_before_it_looked_ends_at_once(tmp_path: Path) -> None:
    nobody = 2**22 + 1  # above pid_max
    command = [
        sys.executable,
        "-m",
        "qforge.envs.guard",
        str(nobody),
        "",
        sys.executable,
        "-c",
        "import time; time.sleep(600)",
    ]
    guard = subprocess.run(command, cwd=ROOT, start_new_session=True, timeout=60)
    assert guard.returncode == -signal.SIGKILL


def test_a_failing_stage_says_what_and_where(tmp_path: Path) -> None:
    """A request that cannot be read: the stage's own last words and its log are in the message.

    Python's resource tracker may speak after them: here in its place a library that comes before all others.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit\n"
        "atexit.register(print, 'resource_tracker: There appear to be 1 leaked semaphore objects to clean up')\n"
    )
    here = replace(HERE, environ={"PYTHONPATH": str(tmp_path)})
    request = Request(Job(), str(tmp_path), server="x")
    with pytest.raises(StageError, match=r"bench failed \(exit code 1\): .*pydantic.*  \(log: .*bench.log"):
        stage.run_stage("bench", here, request, tmp_path / "bench.log", lambda text: None)
    assert "resource_tracker" in (tmp_path / "bench.log").read_text()
    assert not (tmp_path / "result.json").exists()


def test_a_stage_that_was_killed_is_called_so(tmp_path: Path) -> None:
    """By its signal, as the system ends what needs more memory than there is: it cannot say anything itself."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\nif 'qforge.stages.bench' in sys.orig_argv[2:3]:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    here = replace(HERE, environ={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(
        StageError, match=r"bench was killed: by hand, or by the system for lack of memory; .*bench\.log"
    ):
        stage.run_stage("bench", here, Request(Job(), str(tmp_path)), tmp_path / "bench.log", lambda text: None)


def test_a_guard_that_is_told_more_than_once_ends_its_command_all_the_same() -> None:
    """The parent asks and dies: the second signal follows the first at once."""
    command = [
        sys.executable,
        "-m",
        "qforge.envs.guard",
        str(os.getpid()),
        "",
        sys.executable,
        "-c",
        "import time; time.sleep(600)",
    ]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as guard:
        until(psutil.Process(guard.pid).children)
        (child,) = psutil.Process(guard.pid).children()
        for _ in range(100):
            guard.send_signal(signal.SIGTERM)
    assert guard.returncode == -signal.SIGKILL
    assert not psutil.wait_procs([child], 10)[1]
