"""One report of many rows, or one of what changed with the versions that serve:

python -m qforge.report PAGE.html ROW.json ...
python -m qforge.report watch FOLDER [--page PAGE.html] [--quality PERCENT] [--speed PERCENT] [--anew]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from qforge.config.compose import compose
from qforge.config.places import CONF
from qforge.json_files import read_json, write_text
from qforge.judge.goals import judge_again
from qforge.report import pages, watch


def main(arguments: list[str]) -> int:
    """Write the page, and where it is of rows its table beside it as CSV and JSON; returns the exit code."""
    try:
        if arguments[:1] == ["watch"]:
            return watched(arguments[1:])
        if len(arguments) < 2:
            print(__doc__, file=sys.stderr)
            return 2
        page, *files = map(Path, arguments)
        today = compose(CONF).goals
        pages.html(page, [judge_again(_row(file), today) for file in files])
    except ValueError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


def _row(file: Path) -> dict[str, Any]:
    row = read_json(file)
    if not {"model", "method", "verdict", "conditions"} <= row.keys():
        raise ValueError(f"{file}: is no row of a run; give a row.json, or a file of results/ that is one")
    return row


def watched(arguments: list[str]) -> int:
    """The page of all rows in a folder over dates and versions; 3 where a checkpoint scores or serves worse than before."""
    parser = argparse.ArgumentParser("qforge report watch")
    parser.add_argument("folder", type=Path, help="with rows of runs, at any depth")
    parser.add_argument("--page", type=Path, help="to write; watch.html in the folder without it")
    parser.add_argument("--quality", type=float, default=watch.QUALITY, help="percent more perplexity without an alarm")
    parser.add_argument("--speed", type=float, default=watch.SPEED, help="percent fewer tokens/s without an alarm")
    parser.add_argument("--anew", action="store_true", help="take checkpoints of one recipe and size for one")
    given = parser.parse_args(arguments)
    found = watch.series(watch.read(given.folder), given.quality, given.speed, given.anew)
    page = given.page or given.folder / "watch.html"
    alarms = [(each, point) for each in found for point in each.points if point.alarm]
    title = f"{given.folder.resolve().name}, over dates and versions"
    told = {"title": title, "found": found, "alarms": alarms, "quality": given.quality, "speed": given.speed}
    write_text(page, pages.render("watch.html.j2", escape=True, **told))
    for each, point in alarms:
        print(
            f"worse: {each.checkpoint}: {each.measure} {point.value:.4g} with vLLM {point.vllm}, {point.alarm} ({point.file})"
        )
    print(page)
    return 3 if alarms else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
