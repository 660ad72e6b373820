"""The scales of a packed matrix: whether they can give back the weights that they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from qforge.checkpoint import Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray


def faults(
    found: Mapping[str, Stored], original: Stored | None, largest: float, slack: float
) -> Iterator[tuple[str, str]]:
    """What is wrong with the scales of one matrix, by suffix. `original`: its bf16 weights, where they can be compared.

    `largest` is the format's largest value; what scales give back may be off from the weights by a factor of `slack`.
    """
    import numpy as np

    scales = {suffix: tensor.read().astype(np.float32) for suffix, tensor in found.items()}
    wrong = {suffix: fault for suffix, values in scales.items() if (fault := _fault(values, original))}
    yield from wrong.items()
    if not wrong and scales and original:
        unit = scales.get("weight_scale_2", np.ones(1)) / scales.get("weight_global_scale", np.ones(1))
        reach, wanted = float(scales["weight_scale"].max() * unit.max() * largest), _largest(original)
        if not wanted / slack <= reach <= wanted * slack:
            yield "weight_scale", f"weights up to {reach:.1e}, the source has up to {wanted:.1e}"


def _largest(tensor: Stored) -> float:
    """The largest magnitude. In bf16 it is the one with the largest bits, sign aside: 4 times as fast to find."""
    import numpy as np

    values = tensor.read()
    if tensor.dtype == "BF16":
        return float((values.view(np.uint16) & 0x7FFF).max().view(values.dtype))
    return float(np.abs(values.astype(np.float32)).max())


def _fault(values: NDArray[Any], original: Stored | None) -> str | None:
    import numpy as np

    if np.isnan(values).any():
        return "NaN"
    if np.isinf(values).any():
        return "infinite"
    if (values < 0).any():
        return "negative"
    zero = values == 0
    if zero.any() and values.ndim == 2 and original:
        zero = zero[np.abs(original.read().astype(np.float32)).reshape(*values.shape, -1).max(axis=-1) > 0]
    share = float(zero.mean()) if zero.size else 0.0
    return f"{share:.1%} zero" if share > 0.01 else None
