"""qforge init [FOLDER]: a starting configuration of the user's own, in conf/ unless a folder is given."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from qforge.config import places

START = places.ROOT / "data" / "start"


def main(arguments: list[str]) -> int:
    """Write it; returns the exit code. Nothing that is there is written over."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0] if arguments else "conf")
    files = [file.relative_to(START) for file in sorted(START.rglob("*.yaml"))]
    if folder.resolve() == places.CONF:
        raise ValueError(f"init {folder}: is qforge's own configuration; give a folder of yours")
    if there := [folder / file for file in files if (folder / file).exists()]:
        raise ValueError(f"init {folder}: {there[0]} exists; give another folder, or move it")
    try:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(START / file, folder / file)
            print(folder / file)
    except OSError as error:
        raise ValueError(f"init {folder}: {error.strerror}; give a folder that can be created") from None
    print(f"next: edit them, then {' '.join(places.command())} --config-dir {folder} experiment=mine plan_only=true")
    return 0
