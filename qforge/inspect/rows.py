"""Some rows of a packed matrix, as levels and the scales that they are multiplied by, in every layout.

Written from what reads each layout: compressed-tensors 0.19 (compressors/), ModelOpt 0.47 (NVFP4QTensor), vLLM 0.32's
kernels of GPTQ and AWQ (quantization/utils/quant_utils.py: gptq_pack, awq_pack), BitsAndBytes 0.50 (functional.py:
dequantize_4bit).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qforge.models.checkpoint import Stored
from qforge.models.formats import BLOCK

if TYPE_CHECKING:
    from numpy.typing import NDArray

AWQ_NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)  # of a word: where the first, second ... of its eight outputs lies
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the lower three of its four bits: OCP MX
SUFFIXES = ("weight_packed", "weight_scale", "weight_zero_point", "weight_global_scale", "weight", "weight_scale_2",
            "weight.absmax", "weight.quant_map", "qweight", "qzeros", "scales", "g_idx")  # fmt: skip
Parts = Mapping[str, Stored]  # of one matrix, by suffix


@dataclass(frozen=True)
class Rows:
    """The level and the scale of each weight, [rows, columns], and the levels that the format has, ascending."""

    levels: NDArray[Any]
    scales: NDArray[Any]
    format: NDArray[Any]

    def values(self) -> NDArray[Any]:
        values: NDArray[Any] = self.levels * self.scales
        return values

    def step(self) -> NDArray[Any]:
        """The smallest size that each weight can have, but zero."""
        import numpy as np

        step: NDArray[Any] = np.abs(self.format[self.format != 0]).min() * np.abs(self.scales)
        return step

    def most_lost(self) -> NDArray[Any]:
        """The most that rounding each weight can lose, where it is within the levels: half of their widest gap."""
        import numpy as np

        most: NDArray[Any] = np.diff(self.format).max() / 2 * np.abs(self.scales)
        return most

    def nearest(self, weights: NDArray[Any]) -> NDArray[Any]:
        """What rounding to nearest makes of the weights with these scales; what is beyond the last level, or has a scale of
        zero, stays as it is."""
        import numpy as np

        reached = weights / np.where(self.scales == 0, np.inf, self.scales)
        between = (self.format[1:] + self.format[:-1]) / 2
        rounded = self.format[np.searchsorted(between, reached)] * self.scales
        within = (self.scales != 0) & (reached >= self.format[0]) & (reached <= self.format[-1])
        return np.where(within, rounded, weights)


Reader = Callable[[Parts, "NDArray[Any]", int], Rows]  # (parts, rows, columns)


def of(name: str, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors that hold the matrix `name`, by suffix."""
    return {suffix: tensors[f"{name}.{suffix}"] for suffix in SUFFIXES if f"{name}.{suffix}" in tensors}


def _int4(parts: Parts, picked: NDArray[Any], columns: int) -> Rows:
    """Codes from 0 to 15 for -8 to 7, eight columns to a word; zero points alike, eight rows to a word."""
    import numpy as np

    levels, zero = _nibbles(parts["weight_packed"].read()[picked])[:, :columns], np.full((1, 1), 8)
    if "weight_zero_point" in parts:
        words = parts["weight_zero_point"].read()[picked // 8].view(np.uint32)
        zero = ((words >> (4 * (picked % 8)[:, None]).astype(np.uint32)) & 15).astype(int)
    return _integers(levels - _spread(zero, columns), _scales(parts["weight_scale"], picked, columns), 4)


def _gptq(parts: Parts, picked: NDArray[Any], columns: int) -> Rows:
    """Eight inputs to a word; zero points are stored less one, eight outputs to a word; g_idx names each input's group."""
    import numpy as np

    levels = _nibbles(np.ascontiguousarray(parts["qweight"].read()[:, picked].T))
    zero, scale = _transposed(parts, picked, picked % 8)
    group = np.clip(np.asarray(parts["g_idx"].read()), 0, scale.shape[1] - 1)  # a wrong one shows in the values
    return _integers(levels - ((zero + 1) & 15)[:, group], scale[:, group], 4)


def _awq(parts: Parts, picked: NDArray[Any], columns: int) -> Rows:
    """Eight outputs to a word, in an order of their own."""
    import numpy as np

    place = np.array(AWQ_NIBBLE)[picked % 8]
    levels = _at(parts["qweight"].read()[:, picked // 8], place)
    zero, scale = _transposed(parts, picked, place)
    return _integers(levels - _spread(zero, columns), _spread(scale, columns), 4)


def _integers(levels: NDArray[Any], scales: NDArray[Any], bits: int) -> Rows:
    """Whole steps; of more to one side than to the other, as the zero point has it."""
    import numpy as np

    return Rows(levels.astype(np.float32), scales, np.arange(1 - 2**bits, 2**bits, dtype=np.float32))


def _transposed(parts: Parts, picked: NDArray[Any], place: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Zero points and scales, [rows, groups], of tensors that hold an output per column."""
    import numpy as np

    scale = parts["scales"].read()[:, picked].astype(np.float32).T
    return _at(parts["qzeros"].read()[:, picked // 8], place), scale


def _at(words: NDArray[Any], place: NDArray[Any]) -> NDArray[Any]:
    """Of words [inputs, rows] the nibble at each row's place, [rows, inputs]."""
    import numpy as np

    return ((words.view(np.uint32) >> (4 * place).astype(np.uint32)) & 15).astype(int).T


def _fp4(parts: Parts, picked: NDArray[Any], columns: int) -> Rows:
    """Two columns to a byte, the first in its low half; of E2M1's four bits the highest is the sign."""
    import numpy as np

    codes = np.asarray((parts.get("weight_packed") or parts["weight"]).read()[picked])
    both = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(picked), columns)
    sizes, scales = np.array(E2M1, np.float32), _scales(parts["weight_scale"], picked, columns)
    if "weight_scale_2" in parts:
        scales = scales * parts["weight_scale_2"].read().reshape(-1)[0]
    if "weight_global_scale" in parts:
        scales = scales / parts["weight_global_scale"].read().reshape(-1)[0]
    return Rows(np.where(both & 8, -sizes[both & 7], sizes[both & 7]), scales, _both_signs(sizes))


def _by_row(parts: Parts, picked: NDArray[Any], columns: int) -> Rows:
    """FP8 and INT8: a value for each weight, a scale for each row."""
    import numpy as np

    levels = parts["weight"].read()[picked].astype(np.float32)
    scales = _scales(parts["weight_scale"], picked, columns)
    return _integers(levels, scales, 8) if parts["weight"].dtype == "I8" else Rows(levels, scales, _e4m3())


def _by_square(parts: Parts, picked: NDArray[Any], columns: int) -> Rows:
    """FP8: a value for each weight, a scale for each square; those at the edges are cut off."""
    import numpy as np

    scale = parts["weight_scale"].read()[picked // BLOCK].astype(np.float32)
    levels = parts["weight"].read()[picked].astype(np.float32)
    return Rows(levels, np.repeat(scale, BLOCK, axis=1)[:, :columns], _e4m3())


def _nf4(parts: Parts, picked: NDArray[Any], columns: int) -> Rows:
    """The matrix as one vector, two weights to a byte, the first in its high half; codes of a table, a scale for each block of
    the vector."""
    import numpy as np

    packed, largest = parts["weight"].read().reshape(-1, columns // 2), parts["weight.absmax"].read()
    codes = packed[picked]
    both = np.stack([codes >> 4, codes & 15], axis=-1).reshape(len(picked), columns)
    block = (picked[:, None] * columns + np.arange(columns)) // (2 * packed.size // len(largest))
    table = parts["weight.quant_map"].read()
    return Rows(table[both], largest[block], np.sort(table))


def _e4m3() -> NDArray[Any]:
    """Every finite number of FP8."""
    import ml_dtypes
    import numpy as np

    return _both_signs(np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32))


def _both_signs(sizes: NDArray[Any]) -> NDArray[Any]:
    """Of sizes from zero on, ascending, the numbers of either sign, ascending."""
    import numpy as np

    return np.concatenate([-sizes[:0:-1], sizes])


def _scales(stored: Stored, picked: NDArray[Any], columns: int) -> NDArray[Any]:
    """[rows, columns]; what is stored as a byte is an exponent of two (OCP MX's E8M0)."""
    import numpy as np

    scale = stored.read()[picked].astype(np.float32)
    return _spread(np.exp2(scale - 127) if stored.dtype == "U8" else scale, columns)


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
    **dict.fromkeys(("int8", "fp8"), _by_row),
    "fp8_block": _by_square,
    "nf4": _nf4,
}
