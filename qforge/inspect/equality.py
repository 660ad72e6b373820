"""Is a stored tensor the source's? Compared without reading it whole."""

from __future__ import annotations

from qforge.models.checkpoint import Stored

CHUNK = 1 << 24  # bytes compared at a time


def same(stored: Stored, source: Stored) -> bool:
    """Equal bit for bit, or the same numbers where the dtypes differ."""
    if stored.shape != source.shape:
        return False
    if stored.dtype == source.dtype:
        return _same_bytes(stored, source)
    import numpy as np

    return bool((source.read().astype(np.float64) == stored.read().astype(np.float64)).all())


def rounded(stored: Stored, source: Stored) -> bool:
    """Whether the stored values are the source's, rounded to the stored dtype."""
    values = stored.read()
    return stored.shape == source.shape and bool((source.read().astype(values.dtype) == values).all())


def _same_bytes(a: Stored, b: Stored) -> bool:
    if a.nbytes != b.nbytes:
        return False
    with a.file.open("rb") as x, b.file.open("rb") as y:
        x.seek(a.offset)
        y.seek(b.offset)
        left = a.nbytes
        while left > 0:
            size = min(left, CHUNK)
            if x.read(size) != y.read(size):
                return False
            left -= size
    return True
