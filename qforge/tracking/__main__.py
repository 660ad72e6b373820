"""Send finished runs or sweeps to an MLflow server:  python -m qforge.tracking --uri URI FOLDER ..."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qforge.config.tracking import Tracking
from qforge.tracking.send import RESULTS, deliver


def main(arguments: list[str]) -> int:
    """Send each folder; returns the exit code, 1 where one could not be sent."""
    parser = argparse.ArgumentParser("qforge track", description=__doc__)
    parser.add_argument("--uri", required=True, help="of the server, as tracking.uri")
    parser.add_argument("--experiment", default=Tracking().experiment, help="as tracking.experiment")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    if not options.uri.isprintable():
        parser.error(f"--uri {options.uri!r}: has characters that cannot be printed; remove them")
    for folder in options.folders:
        if not any((folder / name).is_file() for name in RESULTS):
            parser.error(
                f"{folder}: no row.json and no sweep.json in it; give the folder of a run or of a sweep that has ended"
            )
    sent = [deliver(options.uri, options.experiment, folder) for folder in options.folders]
    return 0 if all(sent) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
