"""Which tensors of a checkpoint hold NaN or infinity: by their bits, several at a time, a piece of each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from qforge.models.checkpoint import BYTES, Stored

PIECE = 1 << 24  # values looked at at a time
THREADS = min(8, len(os.sched_getaffinity(0)))
# dtype -> the smallest number, sign aside, whose bits are no finite value (E4M3 has no infinity, E8M0 no sign)
FIRST_BAD = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "F64": 0x7FF0000000000000, "F8_E4M3": 0x7F, "F8_E5M2": 0x7C,
             "F8_E8M0": 0xFF}  # fmt: skip


def broken(tensors: Iterable[tuple[str, Stored]]) -> list[str]:
    """The names of those that are not finite."""
    pairs = list(tensors)
    with ThreadPoolExecutor(THREADS) as pool:  # numpy lets go of the interpreter while it computes
        return [
            name
            for (name, _), good in zip(pairs, pool.map(lambda pair: finite(pair[1]), pairs), strict=True)
            if not good
        ]


def finite(tensor: Stored) -> bool:
    """Whether no value is NaN or infinite; integers are not."""
    import numpy as np

    if tensor.dtype not in FIRST_BAD or not tensor.count:
        return True
    size = BYTES[tensor.dtype]
    bits = np.memmap(tensor.file, np.dtype(f"<u{size}"), "r", tensor.offset, (tensor.count,))
    sign = 0 if tensor.dtype == "F8_E8M0" else 1 << (8 * size - 1)
    mask, bad = bits.dtype.type((1 << (8 * size)) - 1 - sign), FIRST_BAD[tensor.dtype]
    return all(int((bits[at : at + PIECE] & mask).max()) < bad for at in range(0, tensor.count, PIECE))
