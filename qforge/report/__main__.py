"""One report of many rows:  python -m qforge.report PAGE.html ROW.json ..."""

from __future__ import annotations

import sys
from pathlib import Path

from qforge.config.compose import compose
from qforge.config.places import CONF
from qforge.json_files import read_json
from qforge.judge.goals import judge_again
from qforge.report import pages


def main(arguments: list[str]) -> int:
    """Write the page, and its table beside it as CSV and JSON; returns the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    page, *files = map(Path, arguments)
    try:
        today = compose(CONF).goals
        pages.html(page, [judge_again(read_json(file), today) for file in files])
    except ValueError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
