"""Where the numbers of a run go besides its folder, as configured. Who sends them: tracking/."""

from __future__ import annotations

from dataclasses import dataclass

from qforge.config.bounds import line


@dataclass
class Tracking:
    """Where the numbers of a run are sent besides its folder."""

    name: str = line("none")  # of its file in conf/tracking/
    uri: str | None = line(None)  # of an MLflow server; none: nothing is sent
    experiment: str = line("qforge")  # that the runs are filed under there
