"""Check experiments before they are measured.

    python -m qforge.experiments conf/experiment/x.yaml ...

Prints Markdown: what each asks and changes, its plan, the measured rows nearest to it, what it must still show. The exit code
is 2 if one is refused, whose part then says why. `make proposal` checks every file that a branch adds or changes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from qforge.config.messages import message
from qforge.experiments import lists, markdown
from qforge.experiments.proposal import COMPOSING, conf_of, read


def main(arguments: list[str]) -> int:
    """Check every file; returns the exit code."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    accepted = True
    for file in map(Path, arguments):
        try:
            text = _text(file)
        except COMPOSING as error:
            text, accepted = markdown.refused(file.stem, message(error)), False
        print(text)
    return 0 if accepted else 2


def _text(file: Path) -> str:
    names = _members(file)
    return markdown.several(file.stem, names) if names else markdown.markdown(read(file))


def _members(file: Path) -> list[str]:
    """What a list of experiments holds; nothing for an experiment. Raises ValueError for what is neither."""
    if file.resolve().parent.name != "experiment" or not (conf_of(file) / "config.yaml").is_file():
        raise ValueError(f"{file}: is not in conf/experiment/, where Hydra looks; move it there")
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    names = lists.members(file)
    missing = [name for name in names if not file.with_name(f"{name}.yaml").is_file()]
    if missing:
        raise ValueError(f"experiments: {missing[0]}: no such file in conf/experiment/")
    list(lists.rows(file.stem, file.parent))  # refuses one that is part of itself
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
