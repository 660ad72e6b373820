"""What transformers makes of packed weights, beside the format's own arithmetic: without a scale a model still scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qforge.envs.request import Refused
from qforge.evaluation import arithmetic
from qforge.models.checkpoint import Stored, headers
from qforge.models.structure import pattern

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 64  # of each matrix that are compared
TOLERANCE = 0.01  # rounding to bf16 made up to 0.0019, in eight formats (transformers 5.17, compressed-tensors 0.19)
PACKED = re.compile(r"(.+)\.(weight(?:[._].+)?)")  # a matrix and one of the tensors that hold it
SCALES = ("weight_scale", "weight.absmax")  # every packed matrix has one of them
EXPERT = re.compile(r"\.experts\.(\d+)\.")


def compare(model: Any, artifact: Path) -> dict[str, float]:
    """How far the weights that a loaded model computes with are from what the files say, for one matrix of each kind: the norm
    of the difference as a part of the weights' own, by the matrix's name with N for the numbers. A bf16 model has none.

    Raises Refused for one that differs by more than TOLERANCE, or that transformers has not read, and for a class that looks at
    a weight which is packed still (Mamba 2's in transformers 5.17).
    """
    import torch

    samples = _samples(headers(artifact))
    if not samples:
        return {}
    differences: dict[str, float] = {}
    with torch.inference_mode():
        try:
            model(torch.zeros(1, 2, dtype=torch.long, device=model.device))  # the first forward pass unpacks
        except AttributeError as error:
            raise Refused(_refusal(f"its class fails at what is packed ({error})")) from error
        for name, files in samples.items():
            expected = arithmetic.weights(_read(files, name))
            if expected is None:
                continue  # a layout that is not known here
            columns = torch.linspace(0, expected.shape[1] - 1, COLUMNS).long().unique()
            found = _computed(model, name, expected, columns)
            if found is None:
                raise Refused(_refusal(f"{name} was not read: no module of the model holds it"))
            difference = min(_distance(matrix, expected[:, columns]) for matrix in found)
            if not difference <= TOLERANCE:  # NaN is none
                raise Refused(_refusal(f"{name} is off by {difference:.3g} of its own norm"))
            differences[pattern(name)] = difference
    return differences


def _refusal(fault: str) -> str:
    import transformers

    return (
        f"runtime=transformers: transformers {transformers.__version__} unpacks this checkpoint wrongly: {fault}, so every "
        "score would be wrong; use a runtime of vLLM (leave runtime out), or method=bf16"
    )


def _samples(tensors: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """The tensors by suffix of one packed matrix of each kind: of a name but for its numbers, and of a format."""
    matrices: dict[str, dict[str, Stored]] = {}
    for tensor, stored in tensors.items():
        if match := PACKED.fullmatch(tensor):
            matrices.setdefault(match[1], {})[match[2]] = stored
    packed = {name: files for name, files in matrices.items() if files.keys() & set(SCALES)}
    first: dict[Any, str] = {}
    for name, files in packed.items():
        first.setdefault((pattern(name), *sorted((suffix, t.dtype) for suffix, t in files.items())), name)
    return {name: packed[name] for name in first.values()}


def _read(files: Mapping[str, Stored], name: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    tensors = {}
    for suffix, stored in files.items():
        with safe_open(stored.file, "pt") as file:
            tensors[suffix] = file.get_tensor(f"{name}.{suffix}")
    return tensors


def _computed(model: Any, name: str, expected: Tensor, columns: Tensor) -> list[Tensor] | None:
    """The columns of the matrix as the model has them; several where it lies in a larger one, of which it may be any part."""
    module, leaf = _place(model, name)
    held = getattr(module, leaf, None)
    if held is None:
        return None
    if not held.is_floating_point():  # packed still: BitsAndBytes unpacks for each product
        return [_of_units(module, expected.shape[1], columns, model.dtype)]
    if expert := EXPERT.search(name):
        held = held[int(expert[1])] if held.ndim == 3 else held
    return [part[:, columns.to(part.device)] for part in _parts(held, *expected.shape)] or None


def _place(model: Any, name: str) -> tuple[Any, str]:
    """The module that holds the matrix, and by which name: transformers renames and joins what it loads."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    # not state_dict(): on CPUs with bf16 arithmetic BitsAndBytes 0.50 packs for the CPU at its first product, and its way back
    # to what state_dict() shows leaves a Linear4bit that computes wrongly (0.55 of the weights' norm) ever after
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    path, _ = rename_source_key(f"{name}.weight", renamings, converters, model.base_model_prefix, state)
    module, _, leaf = path.rpartition(".")
    return dict(model.named_modules()).get(module), leaf


def _of_units(module: Any, inputs: int, columns: Tensor, dtype: Any) -> Tensor:
    """What a linear layer computes of unit vectors, without its bias, which would be rounded together with it."""
    import torch

    units = torch.zeros(len(columns), inputs, dtype=dtype, device=module.weight.device)
    units[torch.arange(len(columns)), columns] = 1
    bias, module.bias = module.bias, None
    try:
        computed: Tensor = module(units)
    finally:
        module.bias = bias
    return computed.T


def _parts(joined: Tensor, rows: int, columns: int) -> Iterator[Tensor]:
    """Every part [rows, columns] of a matrix or its transpose that lies in one piece, or whose rows take turns with others'."""
    for whole in (joined, joined.T):
        if whole.shape[1] == columns and whole.shape[0] % rows == 0:
            count = whole.shape[0] // rows
            yield from whole.split(rows)
            yield from (whole[first::count] for first in range(count) if count > 1)


def _distance(found: Tensor, expected: Tensor) -> float:
    off = (found.float().cpu() - expected).norm()
    return float(off / expected.norm()) if off else 0.0  # the columns may hold nothing: all less than half a step
