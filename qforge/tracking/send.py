"""Finished runs and sweeps, sent to a tracking server. Their folders keep everything, so nothing is lost where it is away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
from omegaconf import DictConfig, OmegaConf

from qforge.console import console
from qforge.json_files import read_json, write_json
from qforge.tracking import contents
from qforge.tracking.server import Server

SENT = "tracking.json"  # in the folder of what was sent: to which server, as which run
FILES = (
    "report.html", "report.csv", "row.json", "verdict.json", "plan.json", "sweep.json", "ladder.json", "artifact/README.md",
)  # fmt: skip
RESULTS = ("row.json", "sweep.json")
PARENT = "mlflow.parentRunId"


def asked(config: DictConfig, folder: Path) -> None:
    """Send what lies in `folder`, where the configuration names a server and the run or sweep came to a row.

    An address that cannot be printed is none: the run was refused for it.
    """
    uri = OmegaConf.select(config, "tracking.uri")
    if uri and str(uri).isprintable() and any((folder / name).is_file() for name in RESULTS):
        deliver(str(uri), str(config.tracking.experiment), folder)


def deliver(uri: str, experiment: str, folder: Path) -> bool:
    """Send the run or the sweep in `folder`; says so, or why not and what to do. Returns whether it is there now."""
    try:
        server = Server(uri)
        place = server.experiment(experiment)
        send = _sweep if (folder / "sweep.json").is_file() else _run
        sent = send(server, uri, place, folder)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        console.print(
            f"tracking.uri={uri}: not sent ({type(error).__name__}: {error}); nothing is lost, send it later: "
            f"qforge track --uri {uri} --experiment {experiment} {folder}",
            style="yellow",
        )
        return False
    console.print(f"tracked: {uri.rstrip('/')}/#/experiments/{place}/runs/{sent}")
    return True


def _sweep(server: Server, uri: str, experiment: str, folder: Path) -> str:
    """The sweep as a run of its own, and every row below it; what an earlier attempt has sent is not sent again."""
    parent = _known(folder, uri) or _parent(server, uri, experiment, folder)
    for job in sorted(file.parent for file in folder.glob("*/row.json")):
        if _known(job, uri) is None:
            _run(server, uri, experiment, job, parent)
    server.end(parent, False, _now())
    return parent


def _parent(server: Server, uri: str, experiment: str, folder: Path) -> str:
    sweep, written = read_json(folder / "sweep.json"), _written(folder / "sweep.json")
    run, place = server.start(experiment, folder.name, {"qforge.sweep": str(folder)}, written)
    server.log(run, {}, [_metric(f"verdicts/{verdict}", count) for verdict, count in sweep["verdicts"].items()])
    _upload(server, place, folder)
    _note(folder, uri, run)
    return run


def _run(server: Server, uri: str, experiment: str, folder: Path, parent: str = "") -> str:
    """A row as a run, below another where it is one of a sweep."""
    row = read_json(folder / "row.json")
    started = _written(folder / "row.json")
    run, place = server.start(
        experiment, contents.name(row), {**contents.tags(row), **({PARENT: parent} if parent else {})}, started
    )
    server.log(run, contents.params(row), [_metric(*each) for each in dict.fromkeys(contents.metrics(row))])
    _upload(server, place, folder)
    server.end(run, bool(row.get("failed")), _now())
    _note(folder, uri, run)
    return run


def _upload(server: Server, place: str, folder: Path) -> None:
    taken = [server.upload(place, folder / name) for name in FILES if (folder / name).is_file()]
    if not all(taken):
        console.print(f"tracking: files stay in {folder}: this server has its artifacts at {place}", style="yellow")


def _known(folder: Path, uri: str) -> str | None:
    """The run that was sent from a folder to this server."""
    if not (folder / SENT).is_file():
        return None
    note = read_json(folder / SENT)
    return str(note["run"]) if note["uri"] == uri else None


def _note(folder: Path, uri: str, run: str) -> None:
    write_json(folder / SENT, {"uri": uri, "run": run})


def _metric(key: str, value: float, step: int = 0) -> dict[str, Any]:
    return {"key": key, "value": value, "step": step, "timestamp": _now()}


def _written(file: Path) -> int:
    return int(1000 * file.stat().st_mtime)


def _now() -> int:
    return int(1000 * time.time())
