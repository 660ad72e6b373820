"""Make stage environments ahead of time: python -m qforge.envs NAME ..."""

from __future__ import annotations

import sys

from qforge.envs import managed


def main(arguments: list[str]) -> int:
    """Make each; prints its Python, returns the exit code. Raises ValueError for an unknown one, or one that cannot be made."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    for name in arguments:
        print(managed.managed(name).python)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
