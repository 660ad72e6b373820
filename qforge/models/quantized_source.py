"""Whether a checkpoint is quantized although its config.json does not say so: by its other files, names and dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qforge.models.checkpoint import Tensor

FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")  # ModelOpt's, GPTQ's and AWQ's
SCALES = ("weight_scale_inv", "weight_scale", "weight_scale_2", "weight_packed", "qweight", "qzeros", "weight.absmax")
PACKED = ("F8_E4M3", "F8_E5M2", "U8", "I8", "I32")


def evidence(tensors: Mapping[str, Tensor], folder: Path | None) -> str | None:
    """What says that the matrices are packed; none where they are plain."""
    for file in FILES if folder else ():
        if (Path(folder or "") / file).is_file():
            return f"it has a {file}"
    for name, tensor in tensors.items():
        if name.endswith(tuple(f".{suffix}" for suffix in SCALES)):
            return f"it has {name}"
        if name.endswith(".weight") and len(tensor.shape) > 1 and tensor.dtype in PACKED:
            return f"{name} is {tensor.dtype}"
    return None
