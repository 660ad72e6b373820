"""How old the pins are: of each list in envs/ the days since its versions were chosen, by the commits that brought them. When
a version was released, which may be years earlier, only an index knows.

    .venv/bin/python benchmarks/faults/pins.py [--audit PROGRAM]

With `--audit pip-audit` (pipx install pip-audit) each list is audited too, by what its service knows of these versions; it
resolves nothing. Ends with 1 where a version has a known weakness, or where the service knows nothing of a whole list.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENVS = Path(__file__).resolve().parents[2] / "envs"
BLAME = re.compile(r"(\d{4}-\d\d-\d\d) [^)]*\) [A-Za-z0-9._-]+==")  # of `git blame`, a line that pins a version


def chosen(file: Path) -> Iterator[datetime.date]:
    """When each version of a list got there."""
    said = subprocess.run(
        ["git", "blame", "--date=short", file.name], cwd=file.parent, capture_output=True, text=True, check=True
    )
    yield from (
        datetime.date.fromisoformat(found[1]) for line in said.stdout.splitlines() if (found := BLAME.search(line))
    )


def audited(program: str, file: Path) -> tuple[int, list[str]]:
    """How many versions the service knows, and the weaknesses of these."""
    line = [
        program,
        "--requirement",
        file,
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    done = subprocess.run(line, capture_output=True, text=True)
    known: list[dict[str, Any]] = [one for one in json.loads(done.stdout)["dependencies"] if "vulns" in one]
    return len(known), [f"{one['name']} {one['version']}: {weak['id']}" for one in known for weak in one["vulns"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audit", metavar="PROGRAM")
    options = parser.parse_args()
    today, code = datetime.datetime.now(datetime.UTC).date(), 0
    for file in sorted(ENVS.glob("*.txt")):
        ages = [(today - day).days for day in chosen(file)]
        if not ages:
            continue
        print(
            f"{file.name}: {len(ages)} versions, {min(ages)} to {max(ages)} days old, median {statistics.median(ages):g}"
        )
        if options.audit:
            known, weak = audited(options.audit, file)
            print(
                "\n".join(
                    [f"    {known} known to the service, {len(weak)} weaknesses", *(f"    {one}" for one in weak)]
                )
            )
            code |= bool(weak) or not known
    return code


if __name__ == "__main__":
    sys.exit(main())
