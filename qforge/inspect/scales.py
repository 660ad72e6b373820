"""The scales of a packed matrix: whether they can be right, by themselves and beside the weights they were made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from qforge.models.checkpoint import Stored
from qforge.models.modules import Module

if TYPE_CHECKING:
    from numpy.typing import NDArray

# of weights first, then of a whole matrix, then of activations
SUFFIXES = (
    "weight_scale",
    "scales",
    "weight.absmax",
    "weight_scale_2",
    "weight_global_scale",
    "input_global_scale",
    "input_scale",
)
OF_MATRIX = ("weight_global_scale", "weight_scale_2")  # of which vLLM takes one for what it fuses
SLACK_RESCALED, SLACK = 64, 4  # by how much the largest weight may be off, where the method folds scales into it or not


def of(name: str, tensors: Mapping[str, Stored]) -> dict[str, NDArray[Any]]:
    """The scales of the matrix `name` by suffix, as numbers; those of weights are [out_features, groups]."""
    return {
        suffix: _values(suffix, tensors[f"{name}.{suffix}"]) for suffix in SUFFIXES if f"{name}.{suffix}" in tensors
    }


def _values(suffix: str, stored: Stored) -> NDArray[Any]:
    import numpy as np

    values = stored.read().astype(np.float32)
    if suffix == "scales":  # GPTQ and AWQ store matrices and scales transposed
        return values.T
    if stored.dtype == "U8":  # exponents: OCP MX's E8M0, of which 255 is NaN
        return np.exp2(np.where(values == 255, np.float32(np.nan), values - 127))
    return values


def faults(
    scales: Mapping[str, NDArray[Any]], original: Stored | None, largest: float, rescaled: bool
) -> dict[str, str]:
    """What is wrong with the scales of a matrix, by suffix. `original`: the source's weights, where they are at hand.

    The largest weight that a matrix can hold is its largest scale times the format's largest value, `largest` (times the
    second scale of NVFP4, by which compressed-tensors divides). A scale of zero is right for a group of zeros only; one in
    a hundred may be: tiny groups underflow.
    """
    import numpy as np

    wrong = {suffix: fault for suffix, values in scales.items() if (fault := _fault(values, original))}
    if wrong or not scales or original is None:
        return wrong
    suffix, steps = next(iter(scales.items()))
    unit = scales.get("weight_scale_2", np.ones(1)) / scales.get("weight_global_scale", np.ones(1))
    reach, original_largest = float(steps.max() * unit.max() * largest), _largest(original)
    slack = SLACK_RESCALED if rescaled else SLACK
    if original_largest == 0:  # its codes are zeros, and its scales the least that a quantizer takes
        return {}
    if original_largest / slack <= reach <= original_largest * slack:
        return {}
    return {suffix: f"weights up to {reach:.1e}, the source has up to {original_largest:.1e}"}


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
    if zero.any() and original is not None and values.ndim == 2 and len(values) == original.shape[0]:  # not of blocks
        zero = zero[np.abs(original.read().astype(np.float32)).reshape(*values.shape, -1).max(axis=-1) > 0]
    share = float(zero.mean()) if zero.size else 0.0
    return f"{share:.1%} zero" if share > 0.01 else None


def unshared(modules: Iterable[Module], tensors: Mapping[str, Stored]) -> list[str]:
    """Fused matrices whose parts have different global scales: vLLM takes the largest for all of them, and the others' weights
    come out too large or too small (quantization/modelopt.py:2054 in 0.32; an expert's gate and up are one matrix)."""
    groups: dict[str, dict[str, float]] = {}
    for module in modules:
        for name, _, _ in module.matrices:
            fused = _fused(module, name)
            for suffix in OF_MATRIX:
                if fused and (stored := tensors.get(f"{name}.{suffix}")):
                    groups.setdefault(f"{fused} {suffix}", {})[name] = float(stored.read().reshape(-1)[0])
    return [
        f"{', '.join(f'{name} {value:.3e}' for name, value in group.items())}"
        for group in groups.values()
        if len(set(group.values())) > 1
    ]


def _fused(module: Module, name: str) -> str | None:
    if module.kind != "expert":
        return module.fused
    expert, _, leaf = name.rpartition(".")
    return expert if leaf in ("gate_proj", "up_proj", "w1", "w3") else None
