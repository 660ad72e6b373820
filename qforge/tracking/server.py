"""An MLflow tracking server, by its REST API (https://mlflow.org/docs/latest/rest-api.html): no client has to be installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

PROXIED = (
    "mlflow-artifacts:/"  # artifacts that the server stores itself; others lie where only MLflow's own client reaches
)
SECONDS = 20.0  # that a request may take
METRICS, PARAMS = 1000, 100  # that one request of log-batch may have


class Server:
    """One server. Its methods raise httpx.HTTPError where it does not answer, or not as asked.

    Who asks is said as MLflow's own client says it: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD.
    """

    def __init__(self, uri: str) -> None:
        token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user and not token else None
        self._client = httpx.Client(base_url=uri.rstrip("/") + "/", headers=headers, auth=auth, timeout=SECONDS)

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, made where there is none."""
        found = self._client.get("api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": name})
        if found.status_code == httpx.codes.NOT_FOUND:
            return str(self._post("experiments/create", name=name)["experiment_id"])
        return str(found.raise_for_status().json()["experiment"]["experiment_id"])

    def start(self, experiment: str, name: str, tags: dict[str, str], started: int) -> tuple[str, str]:
        """Begin a run at `started` (milliseconds since 1970); returns its id and where its artifacts go."""
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        run = self._post("runs/create", experiment_id=experiment, run_name=name, start_time=started, tags=listed)["run"]
        return str(run["info"]["run_id"]), str(run["info"]["artifact_uri"])

    def log(self, run: str, params: dict[str, str], metrics: Sequence[dict[str, Any]]) -> None:
        """Parameters and metrics (key, value, timestamp, step) of a run."""
        listed = [{"key": key, "value": value} for key, value in params.items()]
        for first in range(0, max(len(listed), 1), PARAMS):
            self._post("runs/log-batch", run_id=run, params=listed[first : first + PARAMS])
        for first in range(0, len(metrics), METRICS):
            self._post("runs/log-batch", run_id=run, metrics=list(metrics[first : first + METRICS]))

    def upload(self, place: str, file: Path) -> bool:
        """Put a file beside a run's artifacts; false where the server does not take them itself."""
        if not place.startswith(PROXIED):
            return False
        path = quote(f"{place.removeprefix(PROXIED)}/{file.name}")
        self._client.put(f"api/2.0/mlflow-artifacts/artifacts/{path}", content=file.read_bytes()).raise_for_status()
        return True

    def end(self, run: str, failed: bool, ended: int) -> None:
        """End a run at `ended` (milliseconds since 1970)."""
        self._post("runs/update", run_id=run, status="FAILED" if failed else "FINISHED", end_time=ended)

    def _post(self, call: str, **content: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.post(f"api/2.0/mlflow/{call}", json=content).raise_for_status().json()
        return answer
