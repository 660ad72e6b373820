"""Make stage environments ahead of time: python -m qforge.envs NAME ..."""

from __future__ import annotations

import sys

from qforge.envs import managed

for name in sys.argv[1:]:
    print(managed.managed(name).python)
