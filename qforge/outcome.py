"""How the jobs of this command ended, in this process or on a cluster: what its exit code is made of."""

from __future__ import annotations

FAILED, REFUSED = 1, 2
OF_VERDICT = {"failed": FAILED, "refused": REFUSED}  # every other verdict is a result: 0

codes: list[int] = []


def exit_code() -> int:
    """A failure counts before a refusal: that a row of a sweep is impossible is known, that one failed is not."""
    return min(filter(None, codes), default=0)
