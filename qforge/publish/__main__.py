"""Upload the artifact of a finished run to a hub:  python -m qforge.publish --repo ORG/NAME FOLDER"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qforge.config.publish import Publish
from qforge.models.repository import NAME
from qforge.publish.publish import deliver


def main(arguments: list[str]) -> int:
    """Upload; returns the exit code: 1 where it failed, 2 for bad input, 3 for what is not sound."""
    parser = argparse.ArgumentParser("qforge publish", description=__doc__)
    parser.add_argument("--repo", required=True, help="as publish.repo")
    parser.add_argument("--private", action="store_true", help="as publish.private=true")
    parser.add_argument("--anyway", action="store_true", help="as publish.anyway=true")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a run that has ended")
    given = parser.parse_args(arguments)
    if not NAME.fullmatch(given.repo) or "/" not in given.repo:
        parser.error(f"--repo {given.repo}: is not the name of a repository; use ORG/NAME")
    if not ((given.folder / "row.json").is_file() and (given.folder / "artifact").is_dir()):
        parser.error(f"{given.folder}: no row.json with an artifact beside it; give the folder of a run that made one")
    return deliver(Publish(given.repo, given.private, given.anyway), given.folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
