"""The control environment: the Python that run.py runs in. Any Python reads this first, so it is in the language of 3.6."""

import importlib.util
import os
import sys

OLDEST, NEWEST = (3, 11), (3, 13)  # envs/*.txt are resolved for these
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
MAKE = "make .venv/control.ready"


def enter() -> None:
    """Go on in .venv, where this Python is not one that run.py can run in; without a .venv say in one line what to do.

    `python run.py` is what everybody types. A Python that has Hydra was chosen by somebody who knows why (`.venv` itself, or
    PYTHONPATH where there is no network), so it is kept, and .venv is what make has made for all others. Nothing is
    installed here: a command that starts a run must not take the network by surprise.
    """
    if not refusal():
        return
    python = os.path.join(VENV, "bin", "python")
    if os.path.exists(python) and os.path.realpath(sys.prefix) != os.path.realpath(VENV):
        os.execv(python, [python, *sys.argv])
    stop(refusal())


def refusal() -> str:
    """What is wrong with this Python, and what to do; empty where nothing is."""
    if importlib.util.find_spec("hydra") is None and not wrong_version():
        return f"this Python has no Hydra, and .venv does not exist; run `{MAKE}` once, then run this again"
    return wrong_version()


def wrong_version() -> str:
    """What is wrong with the version of this Python; empty where the environments are resolved for it."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return ""
    version = ".".join(map(str, sys.version_info[:2]))
    return f"{sys.executable} is Python {version}, and qforge needs 3.11, 3.12 or 3.13; run `{MAKE} PYTHON=python3.11`"


def stop(reason: str) -> None:
    """End as every refusal does: one line, and the exit code of bad input."""
    print("refused: " + reason, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__" and wrong_version():
    stop(wrong_version())
