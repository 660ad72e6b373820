"""Whether a packed matrix is the source's: some of its rows, unpacked, beside the rows there.

Words that are zero, permuted or another matrix's have the right names, shapes, dtypes and scales; so have scales that are
another matrix's, or twice what they were. What is compared is what the checkpoint's own scales can hold: where one weight of
a group stands far out, most others are less than a step and become zero, which is a loss for the evaluation to find and no
damage.
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
TOLD = 0.25  # of a row's larger weights of a step or more, that are no zeros: a row that is damaged has none or signs by chance
SIZE_OF_ROW = (0.75, 1.33)  # of a row in the source's direction, as a part of what its scales can hold: 0.90 to 1.04
SIZE_OF_GROUP = 2.0  # the most, of weights that share a scale; 1.29, by GPTQ, which may also leave a group near nothing
TINY = 1e-3  # of the usual square of a group or row: of one that is smaller, rounding leaves nothing or a multiple


def fault(layout: str, parts: Parts, original: Stored, group: int | None, only_signs: bool) -> str | None:
    """What is wrong with the matrix that `parts` hold in this layout, a key of formats.FORMATS; none where nothing is.

    `group`: the inputs that share a scale; none or -1: a row. `only_signs`: scales are folded into the weights, or
    the inputs of a group lie apart, so that sizes say nothing.
    """
    import numpy as np

    rows, columns = original.shape
    picked = np.unique(np.linspace(0, rows - 1, ROWS).astype(int))
    weights = original.read()[picked].astype(np.float32)
    packed = READERS[layout](parts, picked, columns)
    values = packed.values()
    sizes, nothing = np.abs(weights), values == 0
    if only_signs:  # a step is unknown, but the largest weight of a row, for which its scales are made, is no zero
        return _signs(values, weights, ~nothing | nothing.all(axis=1, keepdims=True), ~nothing, picked)
    # what error compensation makes good in a row is at most what rounding has lost there
    told, lost = sizes >= packed.step(), packed.most_lost().max(axis=1, keepdims=True)
    if wrong := _signs(values, weights, told, told & (sizes >= lost), picked):
        return wrong
    return _sizes(values, weights, packed.nearest(weights), picked, group if group and group > 0 else columns)


def _signs(
    values: NDArray[Any], weights: NDArray[Any], told: NDArray[Any], sure: NDArray[Any], picked: NDArray[Any]
) -> str | None:
    """Small weights become zero or change their sign by rounding: of the larger half of each row those are compared that its
    scales can tell from zero (`told`), and those of them whose sign stays (`sure`)."""
    import numpy as np

    sizes, signs = np.abs(weights), np.sign(values)
    large = (sizes >= np.median(sizes, axis=1, keepdims=True)) & (sizes > 0) & told
    some = large & (signs != 0)
    if some.sum() < large.sum() / 2:
        return f"{1 - some.sum() / large.sum():.0%} of its larger weights are zero"
    compared = some & sure
    agree = compared & (signs == np.sign(weights))
    if agree.sum() < SIGNS * compared.sum():
        return f"{agree.sum() / compared.sum():.0%} of its larger weights have the source's sign"
    few = (large.sum(axis=1) >= ENOUGH) & (some.sum(axis=1) < TOLD * large.sum(axis=1))
    unlike = ((large & sure).sum(axis=1) >= ENOUGH) & (agree.sum(axis=1) < SIGNS_OF_ROW * compared.sum(axis=1))
    wrong = few | unlike
    return f"row {picked[wrong][0]}, and {wrong.sum() - 1} more of {len(picked)}" if wrong.any() else None


def _sizes(
    values: NDArray[Any], weights: NDArray[Any], nearest: NDArray[Any], picked: NDArray[Any], group: int
) -> str | None:
    """How long the weights are in the source's direction, row by row and group by group.

    They are held against what rounding to nearest with the same scales leaves of the source (`nearest`), or against the source
    itself where that is less strict: error compensation leaves of the small weights some, and their length on the whole.
    """
    import numpy as np

    squares, left, along = weights * weights, weights * nearest, weights * values
    square, low, high, length = (
        each.reshape(len(picked), -1, group).sum(axis=2)
        for each in (squares, np.minimum(left, squares), np.maximum(left, squares), along)
    )
    of_row = square.sum(axis=1)
    some = of_row > 0
    least, most = SIZE_OF_ROW
    right = (length.sum(axis=1) >= least * low.sum(axis=1)) & (length.sum(axis=1) <= most * high.sum(axis=1))
    right &= (length.sum(axis=1) > 0) | (of_row <= TINY * np.median(of_row))
    if (wrong := some & ~right).any():  # NaN is neither
        row = length.sum(axis=1)[wrong] / of_row[wrong]
        return f"row {picked[wrong][0]} is {row[0]:.2g} times the source's, and {wrong.sum() - 1} more of {len(picked)} are off"
    usual = square > TINY * np.median(square)
    large = usual & (length > SIZE_OF_GROUP * high)
    if large.any():
        where, part = np.argwhere(large)[0]
        size = length[where, part] / square[where, part]
        return f"row {picked[where]}, columns from {part * group}: {size:.2g} times the source's"
    return None
