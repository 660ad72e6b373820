"""search=NAME: jobs of which each depends on how the last one ended, one name for what Hydra calls a sweeper."""

from __future__ import annotations

from qforge.experiments import SWEEP

KEY, SWEEPER = "search=", "hydra/sweeper="


def named(arguments: list[str]) -> list[str]:
    """The command line as Hydra wants it. The jobs' own commands are without it, so each can be run again by itself.

    Raises ValueError for a search without --multirun, which would be one run.
    """
    found = [SWEEPER + a.removeprefix(KEY) if a.startswith(KEY) else a for a in arguments]
    if found != arguments and not set(SWEEP) & set(arguments):
        given = next(a for a in arguments if a.startswith(KEY))
        raise ValueError(f"{given}: runs one job after the other until one is accepted; add --multirun")
    return found
