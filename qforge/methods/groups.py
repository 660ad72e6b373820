"""How config.json says which matrices of a mix have which format: compressed-tensors' config_groups, one for each format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import QuantizationConfig

from qforge.methods.packing import Packer
from qforge.models.modules import BLOCK, Module


def described(parts: Sequence[tuple[Packer, Sequence[Module]]]) -> QuantizationConfig:
    """The quantization_config of a checkpoint in which each packer has packed these matrices.

    Each matrix has one target, its name, so that nothing depends on the order in which a reader tries several.
    """
    groups = {
        f"group_{number}": packer.scheme.model_copy(update={"targets": targets(matrices)})
        for number, (packer, matrices) in enumerate(parts)
    }
    formats = {packer.scheme.format.value for packer, _ in parts}
    whole = formats.pop() if len(formats) == 1 else CompressionFormat.mixed_precision.value
    described: QuantizationConfig = parts[0][0].config.model_copy(update={"config_groups": groups, "format": whole})
    return described


def targets(matrices: Iterable[Module]) -> list[str]:
    """Names, and of the experts of a layer, which have one format, an expression that takes any prefix: vLLM has its own."""
    found = dict[str, None]()
    for matrix in matrices:
        for name, _, _ in matrix.matrices:
            layer, experts, _ = name.partition(".experts.")
            block = BLOCK.search(f"{layer}.") if experts and matrix.kind == "expert" else None
            found[rf"re:.*{re.escape(layer[block.start() :])}\.experts\..*" if block else name] = None
    return list(found)
