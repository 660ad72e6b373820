"""Whether a packed matrix is the source's: some of its rows, unpacked, beside the rows there.

Words that are zero, permuted or another matrix's have the right names, shapes, dtypes and scales; so have scales that are
another matrix's, or twice what they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qforge.inspect.rows import READERS, Parts
from qforge.models.checkpoint import Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What was seen in 12 artifacts of SmolLM2-135M (llm-compressor's RTN, GPTQ, AWQ, FP8, INT8, NVFP4, NVFP4 by GPTQ and W4A4;
# ModelOpt's NVFP4 by four choices of scales) stands behind each bound
ROWS = 64  # of a matrix, spread evenly
SIGNS = 0.75  # of a matrix that are the source's: half agree by chance, and 0.999 did
SIGNS_OF_ROW, ENOUGH = 0.6, 64  # of a row with so many signs: there 0.93 did, by GPTQ
# of a row's larger weights, that are no zeros: where one channel stands far out, 0.42 round to zero (Qwen2.5-Coder-1.5B's last
# down_proj, groups of 128), and a row that is damaged has none or signs by chance
TOLD = 0.25
SIZE_OF_ROW = (0.75, 1.33)  # of a row in the source's direction, as a part of the source's: 0.90 to 1.04
SIZE_OF_GROUP = (
    2.0  # the most, of the weights that share a scale; 1.29, by GPTQ, which may also leave a group near nothing
)
TINY = 1e-3  # of the usual square of a group: of one that is smaller, rounding leaves nothing or a multiple


def fault(layout: str, parts: Parts, original: Stored, group: int | None, only_signs: bool) -> str | None:
    """What is wrong with the matrix that `parts` hold in this layout, a key of formats.FORMATS; none where nothing is.

    `group`: the inputs that share a scale; none or -1: a row. `only_signs`: scales are folded into the weights, or
    the inputs of a group lie apart, so that sizes say nothing.
    """
    import numpy as np

    rows, columns = original.shape
    picked = np.unique(np.linspace(0, rows - 1, ROWS).astype(int))
    weights = original.read()[picked].astype(np.float32)
    values = READERS[layout](parts, picked, columns)
    if wrong := _signs(values, weights, picked):
        return wrong
    return None if only_signs else _sizes(values, weights, picked, group if group and group > 0 else columns)


def _signs(values: NDArray[Any], weights: NDArray[Any], picked: NDArray[Any]) -> str | None:
    """Small weights become zero or change their sign by rounding, so that the larger half of each row is compared."""
    import numpy as np

    sizes, signs = np.abs(weights), np.sign(values)
    large = (sizes >= np.median(sizes, axis=1, keepdims=True)) & (sizes > 0)
    told, agree = large & (signs != 0), large & (signs == np.sign(weights))
    if told.sum() < large.sum() / 2:
        return f"{1 - told.sum() / large.sum():.0%} of its larger weights are zero"
    if agree.sum() < SIGNS * told.sum():
        return f"{agree.sum() / told.sum():.0%} of its larger weights have the source's sign"
    few = told.sum(axis=1) < TOLD * large.sum(axis=1)
    wrong = (large.sum(axis=1) >= ENOUGH) & (few | (agree.sum(axis=1) < SIGNS_OF_ROW * told.sum(axis=1)))
    return f"row {picked[wrong][0]}, and {wrong.sum() - 1} more of {len(picked)}" if wrong.any() else None


def _sizes(values: NDArray[Any], weights: NDArray[Any], picked: NDArray[Any], group: int) -> str | None:
    """How long the weights are in the source's direction, row by row and group by group, the source's being 1."""
    import numpy as np

    square, along = ((weights * other).reshape(len(picked), -1, group).sum(axis=2) for other in (weights, values))
    some = square.sum(axis=1) > 0
    row = along.sum(axis=1)[some] / square.sum(axis=1)[some]
    least, most = SIZE_OF_ROW
    if (wrong := ~((row >= least) & (row <= most))).any():  # NaN is neither
        first = picked[some][wrong][0]
        return f"row {first} is {row[wrong][0]:.2g} times the source's, and {wrong.sum() - 1} more of {len(picked)} are off"
    usual = square > TINY * np.median(square)
    large = usual & (along > SIZE_OF_GROUP * square)
    if large.any():
        where, part = np.argwhere(large)[0]
        size = along[where, part] / square[where, part]
        return f"row {picked[where]}, columns from {part * group}: {size:.2g} times the source's"
    return None
