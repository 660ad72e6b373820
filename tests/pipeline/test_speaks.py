"""A tiny model of random weights speaks through vLLM-Omni itself, on a CPU: pytest -m omni, with minutes for each start."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.browser import ask
from support.command import Cli
from support.processes import processes_with, wait_for_output

from qforge.evaluation import sound
from qforge.machine import usage
from qforge.runtimes import shared_memory

SPEAKS = (
    "model=qwen3_omni_tiny", "hw=cpu", "runtime=vllm_omni_cpu", "method=rtn", "group_size=64", "unservable=measure",
    "eval.speech.limit=1",
)  # fmt: skip

pytestmark = pytest.mark.omni


def group(log: Path) -> int:
    """The process group of a server."""
    return int(log.read_text().partition("process group ")[2].split()[0])


def nothing_stays(cli: Cli, folder: Path) -> None:
    """Engines call themselves something else than their command, so their groups are looked at."""
    assert not processes_with(str(cli.store))
    assert not [process for log in folder.glob("*speak-server.log") for process in usage.members(group(log))]
    assert not list(shared_memory.FOLDER.glob("*chatcmpl-qforge*"))


def test_int4_and_bf16_speak_what_vllm_writes_and_are_played(cli: Cli) -> None:
    done = cli.succeed(*SPEAKS, "stages=[quantize,inspect,serve,speak,judge,report]")
    for prefix in ("", "bf16-"):
        spoken = done.json(f"{prefix}speak")
        assert spoken["text"] == {"answers": 1, "equal": 1, "alike": 1.0, "differs": None}
        (answer,) = spoken["answers"]
        assert answer["faults"] == []
        assert 0 < answer["first_sound_seconds"] <= answer["answer_seconds"]
        assert sound.read((done.folder / answer["file"]).read_bytes()).seconds == answer["seconds"]
    players = "document.querySelectorAll('table.voices audio[src^=\"data:audio/wav;base64,\"]').length"
    assert ask(done.folder / "report.html", f"return {players}") == 2
    nothing_stays(cli, done.folder)


def test_a_talker_that_is_killed_ends_the_run(cli: Cli) -> None:
    command, folder = cli.command(*SPEAKS, "stages=[quantize,inspect,speak,report]", "eval.speech.tokens=64")
    with subprocess.Popen(command, cwd=cli.outputs, stdout=-1, stderr=subprocess.STDOUT, text=True) as run:
        wait_for_output(folder / "speak.log", "question 1", run, patience=1800)
        os.kill(talker(folder), signal.SIGKILL)
        output = run.communicate(timeout=120)[0]
    assert run.returncode == 1, output
    assert "the server ended while it was used" in output
    assert "Look for 'Out of memory'" in output
    nothing_stays(cli, folder)


def talker(folder: Path) -> int:
    """The engine of the second stage, among the processes of this run's server."""
    engines = usage.members(group(folder / "speak-server.log"))
    return next(engine.pid for engine in engines if "stage1" in " ".join(engine.cmdline()))
