"""Where the numbers of a run go besides its folder, as configured. Who sends them: tracking/."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tracking:
    """Where the numbers of a run are sent besides its folder."""

    name: str = "none"  # of its file in conf/tracking/
    uri: str | None = None  # of an MLflow server; none: nothing is sent
    experiment: str = "qforge"  # that the runs are filed under there
