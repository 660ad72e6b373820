"""A method's rounding to nearest, without a checkpoint: a matrix -> what would be stored of it, as bf16 again.

Methods that stream store exactly this. GPTQ and AWQ round the same way to the same format, but choose what they round by
looking at data; an observer that searches (MSE, importance matrix) rounds by other scales than the largest weight's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qforge.config.method import Method
from qforge.models.formats import FORMATS

if TYPE_CHECKING:
    import torch

    Round = Callable[[torch.Tensor], torch.Tensor]  # bf16 [rows of a set that shares a global scale, in_features]

WEIGHTS = ("targets", "scheme", "config_groups")  # of a llm-compressor recipe: what decides the format


def recipe(method: Method) -> dict[str, Any]:
    """What decides the rounded values: methods with equal recipes round alike. Raises ValueError for an unknown library."""
    if FORMATS[method.format].quant_method == "modelopt":
        return {"modelopt": method.format}
    packing = list(method.args.values())[-1] if method.args else None  # a recipe's last modifier packs
    scheme = {key: packing[key] for key in WEIGHTS if key in packing} if isinstance(packing, dict) else {}
    if not scheme:
        raise ValueError(
            f"method={method.name}: sensitivity rounds by llm-compressor's recipes and to ModelOpt's NVFP4; use method=rtn, "
            "fp8 or nvfp4_llmc to measure it"
        )
    groups = {name: _by_the_largest(group) for name, group in scheme.get("config_groups", {}).items()}
    return {**scheme, "config_groups": groups} if groups else scheme


def _by_the_largest(group: Any) -> Any:
    """A config group without its observer: by default scales are the largest weight's, which can be computed row by row."""
    weights = group.get("weights") if isinstance(group, dict) else None
    if not weights:
        return group
    return {**group, "weights": {key: weights[key] for key in weights if key not in ("observer", "observer_kwargs")}}


def rounding(method: Method, group_size: int | None) -> Round:
    """The function that rounds."""
    scheme = recipe(method)
    if "modelopt" not in scheme:
        from qforge.methods.packing import Packer

        return Packer(scheme).round

    import torch
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    def by_modelopt(rows: torch.Tensor) -> torch.Tensor:
        packed, scale, double = NVFP4QTensor.quantize(rows, group_size)
        sizes = {-1: group_size}
        plain: torch.Tensor = packed.dequantize(
            dtype=torch.bfloat16, block_sizes=sizes, scale=scale, double_scale=double
        )
        return plain

    return by_modelopt
