"""What the store holds, and freeing it; jobs that run keep what they use.

python -m qforge.store                                      list everything: size, age, what it is, what made it
python -m qforge.store free KEY ...                         these results
python -m qforge.store free --stage fetch --older 30        all of a stage, of 30 days and more; one of the two is enough
python -m qforge.store free --unfinished                    what jobs that died have left
"""

from __future__ import annotations

import argparse
import sys

from qforge.config.job import Job
from qforge.config.places import store_path
from qforge.console import console
from qforge.store.freeing import Entry, entries, free

HEADINGS = ("stage", "key", "GB", "linked", "days", "what", "made by")
NUMBERS = HEADINGS[2:5]


def main(arguments: list[str]) -> int:
    """List, or free; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m qforge.store", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=["list", "free"], default="list")
    parser.add_argument("keys", nargs="*", metavar="KEY")
    parser.add_argument("--store", default=Job().store, help="as the key store of a run")
    parser.add_argument("--stage")
    parser.add_argument("--older", type=float, metavar="DAYS")
    parser.add_argument("--unfinished", action="store_true")
    options = parser.parse_args(arguments)
    stored = entries(store_path(options.store))
    chosen = [entry for entry in stored if _chosen(entry, options)]
    if options.command == "list":
        _show(chosen)
        return 0
    if not (options.keys or options.stage or options.older is not None or options.unfinished):
        parser.error("free: choose what to free: KEY ..., --stage STAGE, --older DAYS or --unfinished")
    if missing := set(options.keys) - {entry.key for entry in stored}:
        parser.error(f"free: no result has the key {', '.join(sorted(missing))}; `list` shows every key")
    return _free(chosen)


def _chosen(entry: Entry, options: argparse.Namespace) -> bool:
    return (
        (not options.keys or entry.key in options.keys)
        and (not options.stage or entry.stage == options.stage)
        and (options.older is None or entry.days >= options.older)
        and (not options.unfinished or entry.unfinished)
    )


def _show(chosen: list[Entry]) -> None:
    lines = [HEADINGS, *map(_line, chosen)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(HEADINGS, line, widths, strict=True)
        padded = (cell.rjust(width) if heading in NUMBERS else cell.ljust(width) for heading, cell, width in cells)
        print("  ".join(padded).rstrip())
    total, linked = (
        (sum(sizes) / 1e9 for sizes in zip(*((e.bytes, e.linked) for e in chosen), strict=True)) if chosen else (0, 0)
    )
    console.print(
        f"{len(chosen)} entries, {total:.3f} GB; {linked:.3f} GB of them are also in run folders, which keep them"
    )


def _line(entry: Entry) -> tuple[str, ...]:
    linked = f"{entry.linked / 1e9:.3f}" if entry.linked else ""
    return (entry.stage, entry.key, f"{entry.bytes / 1e9:.3f}", linked, f"{entry.days:.1f}", entry.subject, entry.maker)


def _free(chosen: list[Entry]) -> int:
    freed = []
    for entry in chosen:
        if free(entry):
            freed.append(entry)
        else:
            console.print(f"kept: {entry.stage} {entry.key}: a running job uses it", style="yellow")
    size = sum(entry.bytes - entry.linked for entry in freed) / 1e9
    console.print(f"freed {len(freed)} of {len(chosen)} entries, {size:.3f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
