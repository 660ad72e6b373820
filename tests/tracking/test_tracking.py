"""What a tracking server is told, and that nothing is lost where it is away."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support.command import ROOT, Cli
from support.rows import ROWS

from qforge.envs import managed
from qforge.json_files import read_json, write_json
from qforge.main import main
from qforge.tracking import contents, send

NOBODY = "http://127.0.0.1:9"  # nothing listens there


def test_a_row_is_told_with_its_intervals() -> None:
    row = next(row for row in ROWS if row["method"] != "bf16" and row["criteria"])
    told = {(key, step): value for key, value, step in contents.metrics(row)}
    for each in row["criteria"]:
        if each["value"] is not None:
            key = f"{each['metric']}/{each['of']}" if each["of"] else each["metric"]
            own = [told[contents.ODD.sub("_", name), 0] for name in (f"{key}/low", key, f"{key}/high")]
            assert own == [each["interval"][0], each["value"], each["interval"][1]]
    assert told["bench/output_throughput", 4] == row["measured"]["bench"]["runs"]["4"]["output_throughput"]
    assert contents.params(row)["hw"] == row["conditions"]["hw"]
    assert contents.tags(row)["qforge.commit"] == row["qforge"]["commit"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["method"])
def test_every_row_can_be_told(row: dict) -> None:
    told = list(contents.metrics(row))
    assert len({(key, step) for key, _, step in told}) == len(told)
    assert all(len(value) <= contents.LONGEST for value in contents.params(row).values())


def test_a_server_that_is_away_costs_nothing_but_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "row.json", ROWS[0])
    assert not send.deliver(NOBODY, "qforge", tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert f"tracking.uri={NOBODY}: not sent (ConnectError" in said
    assert f"qforge track --uri {NOBODY} --experiment qforge {tmp_path}" in said
    assert [file.name for file in tmp_path.iterdir()] == ["row.json"]


def test_a_folder_without_a_row_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["qforge", "track", "--uri", NOBODY, str(tmp_path)])
    assert main() == 2
    assert "no row.json and no sweep.json in it" in capsys.readouterr().err


@contextmanager
def mlflow(folder: Path, port: int) -> Iterator[str]:
    """A tracking server with SQLite behind it, in an environment of its own."""
    folder.mkdir(exist_ok=True)
    python, uri = managed.managed("mlflow", gpu=False).python, f"http://127.0.0.1:{port}"
    command = [
        python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", folder / "artifacts",
    ]  # fmt: skip
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as server:
        try:
            while True:
                try:
                    httpx.get(f"{uri}/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    assert server.poll() is None, (folder / "log").read_text()
                    time.sleep(0.5)
            yield uri
        finally:
            server.terminate()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def runs(uri: str) -> list[dict]:
    api = f"{uri}/api/2.0/mlflow"
    place = httpx.get(f"{api}/experiments/get-by-name", params={"experiment_name": "mine"}).json()["experiment"]
    return httpx.post(f"{api}/runs/search", json={"experiment_ids": [place["experiment_id"]]}).json()["runs"]


def tags(run: dict) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


@pytest.mark.libraries
def test_a_sweep_is_a_run_with_its_rows_below_it(cli: Cli, tmp_path: Path) -> None:
    """At first nobody listens; then it is sent, once, however often one asks."""
    port, folder = free_port(), tmp_path / "sweep"
    uri = f"http://127.0.0.1:{port}"
    keys = ("method=rtn,nvfp4_llmc", "stages=[quantize,inspect,report]", f"hydra.sweep.dir={folder}")
    away = cli.succeed("--multirun", *keys, "tracking=mlflow", f"tracking.uri={uri}", "tracking.experiment=mine")
    assert "not sent (ConnectError" in away.output
    track = [sys.executable, "-m", "qforge.tracking", "--uri", uri, "--experiment", "mine", str(folder)]
    with mlflow(tmp_path / "server", port):
        for _ in range(2):
            subprocess.run(track, cwd=ROOT, check=True)
        found = runs(uri)
        (parent,) = [run for run in found if send.PARENT not in tags(run)]
        below = [run for run in found if tags(run).get(send.PARENT) == parent["info"]["run_id"]]
        assert len(found) == 3
        assert {run["info"]["status"] for run in found} == {"FINISHED"}
        assert {param["value"] for run in below for param in run["data"]["params"] if param["key"] == "method"} == {
            "rtn", "nvfp4_llmc",
        }  # fmt: skip
        sizes = {metric["value"] for run in below for metric in run["data"]["metrics"] if metric["key"] == "size/bytes"}
        assert sizes == {read_json(file)["size"]["bytes"] for file in folder.glob("*/row.json")}
        listed = httpx.get(f"{uri}/api/2.0/mlflow/artifacts/list", params={"run_id": below[0]["info"]["run_id"]}).json()
        assert {"report.html", "row.json"} <= {file["path"] for file in listed["files"]}
