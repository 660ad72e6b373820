"""Whether weights that were quantized and unpacked lie on a grid: 2 to the number of bits values in each group at most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qforge.models.checkpoint import Stored

ROWS = 64  # of each matrix that are looked at


def loose(tensors: Mapping[str, Stored], modules: Iterable[str], group_size: int | None, most: int) -> list[str]:
    """The modules with more than `most` values in a group of one of their rows; those without weights are left out."""
    import numpy as np

    found = []
    for module in modules:
        if f"{module}.weight" not in tensors:
            continue  # missing, and said so
        rows = tensors[f"{module}.weight"].read()[:ROWS].astype(np.float32)
        group = group_size if group_size and group_size > 0 else rows.shape[1]
        values = np.sort(rows.reshape(-1, group), axis=1)
        if ((np.diff(values, axis=1) > 0).sum(axis=1) + 1).max() > most:
            found.append(module)
    return found
