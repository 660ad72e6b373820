"""The tiny model that the campaign quantizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from qforge.envs.managed import managed


def tiny_model(folder: Path) -> Path:
    """`folder`, and the model in it where it is not there; so is the environment that writes it."""
    if not folder.is_dir():
        subprocess.run([managed("quant").python, HERE / "tiny.py", folder], check=True)
    return folder
