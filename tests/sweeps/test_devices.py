"""Rows side by side on the GPUs of a machine: each in a process of its own, and each ends as a row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.command import Cli, Finished

from qforge.json_files import read_json
from qforge.sweeps import devices
from qforge.sweeps.task import Task


def test_rows_side_by_side_are_those_of_a_sweep(cli: Cli, rtn: Finished, tmp_path: Path) -> None:
    done = cli.succeed(
        "--multirun", "hydra/launcher=devices", "hydra.launcher.rows=2", "experiment=rtn", "group_size=64,128",
        "stages=[quantize,inspect]", f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    rows = {row["name"]: row["verdict"] for row in read_json(tmp_path / "sweep.json")["rows"]}
    assert rows == {"RTN: rtn g64": "not_judged", "RTN: rtn g128": "refused"}
    assert "group_size=64" in read_json(tmp_path / "0" / "row.json")["command"]
    assert "= quantize" in (tmp_path / ".jobs" / "0.log").read_text()
    assert done.output.strip().endswith(f"report: {tmp_path / 'report.html'}")


def test_a_job_that_dies_leaves_a_row_and_the_next_begins(tmp_path: Path) -> None:
    config = OmegaConf.create({"model": {"name": "tiny"}, "method": {"name": "rtn"}})
    tasks = [Task(number, [f"n={number}"], config, tmp_path / str(number)) for number in range(2)]
    devices.run(tasks, [(os._exit, 9), (os.kill, 0, 0)], devices.places(1)[:1])  # the second ends well
    row = read_json(tmp_path / "0" / "row.json")
    assert (row["verdict"], row["model"], row["method"]) == ("failed", "tiny", "rtn")
    assert "its process ended with exit code 9" in row["failed"]["reason"]
    assert not (tmp_path / "1" / "row.json").exists()


def test_jobs_are_spread_over_the_devices_and_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-abc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    places = devices.places(2)
    assert [place.device for place in places] == ["0", "GPU-abc"] * 2
    assert [place.cores for place in places] == [(0, 1), (2, 3)] * 2


def test_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hydra\.launcher\.rows=x: must be a whole number, 1 or more"):
        devices.places("x")
    with pytest.raises(ValueError, match=r"hydra\.launcher\.rows=0: must be a whole number, 1 or more"):
        devices.places(0)
