"""Whether packed weights are the source's: the signs of some rows, which no scale changes, beside the signs there.

Words that are zero, permuted or another matrix's have the right names, shapes, dtypes and scales. Written from what reads each
layout: compressed-tensors 0.19 (compressors/), ModelOpt 0.47 (NVFP4QTensor), vLLM 0.32's kernels of GPTQ and AWQ
(quantization/utils/quant_utils.py: gptq_pack, awq_pack), BitsAndBytes 0.50 (functional.py: dequantize_4bit).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qforge.models.checkpoint import Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 64  # of a matrix, spread evenly
LEAST = 0.75  # of the signs of a matrix: half agree by chance, and 0.999 did in 12 artifacts of SmolLM2-135M, GPTQ's among them
LEAST_OF_ROW, ENOUGH = 0.6, 64  # of a row with so many signs: there 0.93 did, by GPTQ
# of a row's larger weights, that are no zeros: where one channel stands far out, 0.42 round to zero (Qwen2.5-Coder-1.5B's last
# down_proj, groups of 128), and a row that is damaged has none or signs by chance
LEAST_TOLD = 0.25
AWQ_NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)  # of a word: where the first, second ... of its eight outputs lies
SUFFIXES = ("weight_packed", "weight_scale", "weight_zero_point", "weight", "weight.quant_map", "qweight", "qzeros", "scales",
            "g_idx")  # fmt: skip
Parts = Mapping[str, Stored]  # of one matrix, by suffix
Reader = Callable[[Parts, "NDArray[Any]", int], "NDArray[Any]"]  # (parts, rows, columns) -> signs [rows, columns]


def of(name: str, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors that hold the codes of the matrix `name`, by suffix."""
    return {suffix: tensors[f"{name}.{suffix}"] for suffix in SUFFIXES if f"{name}.{suffix}" in tensors}


def fault(layout: str, parts: Parts, original: Stored) -> str | None:
    """What is wrong with the matrix that `parts` hold in this layout, a key of formats.FORMATS; none where nothing is.

    Small weights become zero or change their sign by rounding, so that the larger half of each row is compared.
    """
    import numpy as np

    rows, columns = original.shape
    picked = np.unique(np.linspace(0, rows - 1, ROWS).astype(int))
    weights = original.read()[picked].astype(np.float32)
    sizes = np.abs(weights)
    large = (sizes >= np.median(sizes, axis=1, keepdims=True)) & (sizes > 0)
    signs = READERS[layout](parts, picked, columns)
    told, agree = large & (signs != 0), large & (signs == np.sign(weights))
    if told.sum() < large.sum() / 2:
        return f"{1 - told.sum() / large.sum():.0%} of its larger weights are zero"
    if agree.sum() < LEAST * told.sum():
        return f"{agree.sum() / told.sum():.0%} of its larger weights have the source's sign"
    few = told.sum(axis=1) < LEAST_TOLD * large.sum(axis=1)
    wrong = (large.sum(axis=1) >= ENOUGH) & (few | (agree.sum(axis=1) < LEAST_OF_ROW * told.sum(axis=1)))
    return f"row {picked[wrong][0]}, and {wrong.sum() - 1} more of {len(picked)}" if wrong.any() else None


def _int4(parts: Parts, picked: NDArray[Any], columns: int) -> NDArray[Any]:
    """Codes from 0 to 15 for -8 to 7, eight columns to a word; zero points alike, eight rows to a word."""
    import numpy as np

    levels, zero = _nibbles(parts["weight_packed"].read()[picked])[:, :columns], np.full((1, 1), 8)
    if "weight_zero_point" in parts:
        words = parts["weight_zero_point"].read()[picked // 8].view(np.uint32)
        zero = ((words >> (4 * (picked % 8)[:, None]).astype(np.uint32)) & 15).astype(int)
    scale = np.sign(parts["weight_scale"].read()[picked].astype(np.float32))  # AutoRound's may be negative
    signs: NDArray[Any] = np.sign(levels - _spread(zero, columns)) * _spread(scale, columns)
    return signs


def _gptq(parts: Parts, picked: NDArray[Any], columns: int) -> NDArray[Any]:
    """Eight inputs to a word; zero points are stored less one, eight outputs to a word; g_idx names each input's group."""
    import numpy as np

    levels = _nibbles(np.ascontiguousarray(parts["qweight"].read()[:, picked].T))
    zero, scale = _transposed(parts, picked, picked % 8)
    group = np.asarray(parts["g_idx"].read())
    signs: NDArray[Any] = np.sign(levels - (zero[:, group] + 1)) * scale[:, group]
    return signs


def _awq(parts: Parts, picked: NDArray[Any], columns: int) -> NDArray[Any]:
    """Eight outputs to a word, in an order of their own."""
    import numpy as np

    place = np.array(AWQ_NIBBLE)[picked % 8]
    levels = _at(parts["qweight"].read()[:, picked // 8], place)
    zero, scale = _transposed(parts, picked, place)
    signs: NDArray[Any] = np.sign(levels - _spread(zero, columns)) * _spread(scale, columns)
    return signs


def _transposed(parts: Parts, picked: NDArray[Any], place: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Zero points, and signs of scales, [rows, groups], of tensors that hold an output per column."""
    import numpy as np

    scale = np.sign(parts["scales"].read()[:, picked].astype(np.float32)).T
    return _at(parts["qzeros"].read()[:, picked // 8], place), scale


def _at(words: NDArray[Any], place: NDArray[Any]) -> NDArray[Any]:
    """Of words [inputs, rows] the nibble at each row's place, [rows, inputs]."""
    import numpy as np

    return ((words.view(np.uint32) >> (4 * place).astype(np.uint32)) & 15).astype(int).T


def _fp4(parts: Parts, picked: NDArray[Any], columns: int) -> NDArray[Any]:
    """Two columns to a byte, the first in its low half; of E2M1's four bits the highest is the sign."""
    import numpy as np

    codes = np.asarray((parts.get("weight_packed") or parts["weight"]).read()[picked])
    both = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(picked), columns)
    signs: NDArray[Any] = np.where(both & 7 == 0, 0, np.where(both & 8, -1, 1))
    return signs


def _plain(parts: Parts, picked: NDArray[Any], columns: int) -> NDArray[Any]:
    """FP8 and INT8: a value for each weight."""
    import numpy as np

    signs: NDArray[Any] = np.sign(parts["weight"].read()[picked].astype(np.float32))
    return signs


def _nf4(parts: Parts, picked: NDArray[Any], columns: int) -> NDArray[Any]:
    """The matrix as one vector, two weights to a byte, the first in its high half; codes of a table."""
    import numpy as np

    codes = parts["weight"].read().reshape(-1, columns // 2)[picked]
    both = np.stack([codes >> 4, codes & 15], axis=-1).reshape(len(picked), columns)
    signs: NDArray[Any] = np.sign(parts["weight.quant_map"].read())[both]
    return signs


def _nibbles(words: NDArray[Any]) -> NDArray[Any]:
    """[rows, words] of 32 bits -> [rows, 8 * words] of 0 to 15, the lowest bits first."""
    import numpy as np

    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    return ((words.view(np.uint32)[:, :, None] >> shifts) & 15).astype(int).reshape(len(words), -1)


def _spread(values: NDArray[Any], columns: int) -> NDArray[Any]:
    """[rows, groups] -> [rows, columns]."""
    import numpy as np

    return np.repeat(values, columns // values.shape[1], axis=1)


READERS: dict[str, Reader] = {
    **dict.fromkeys(("int4", "int4_asym"), _int4),
    **dict.fromkeys(("gptq", "gptq_asym"), _gptq),
    "awq": _awq,
    **dict.fromkeys(("nvfp4", "nvfp4_w4a4", "mxfp4", "nvfp4_modelopt", "nvfp4_w4a4_modelopt"), _fp4),
    **dict.fromkeys(("int8", "fp8", "fp8_block"), _plain),
    "nf4": _nf4,
}
