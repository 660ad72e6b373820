"""Matrices that do not lie in the checkpoint as [out_features, in_features]: experts in one tensor, and turned ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qforge.models.checkpoint import Stored
from qforge.models.modules import Module
from qforge.models.shards import fill

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class Part(Module):
    """One matrix of a stack: the `share`-th of the `leaves` of an expert."""

    expert: int = 0
    share: int = 0


def parts(module: Module) -> list[Module]:
    """The matrices of a stack; of another module itself."""
    if module.stack == 1:
        return [module]
    return [
        Part(
            name=name, kind=module.kind, out_features=rows, in_features=columns, dtype=module.dtype, leaves=module.leaves,
            transposed=module.transposed, alternate=module.alternate, block=module.block, fused=module.fused,
            tensor=module.tensor, expert=number // len(module.leaves), share=number % len(module.leaves),
        )
        for number, (name, rows, columns) in enumerate(module.matrices)
    ]  # fmt: skip


def load(rows: torch.Tensor, matrix: Module, tensor: Stored) -> None:
    """Read a matrix into bf16 `rows` [out_features, in_features], rounded where the file has more digits."""
    expert, share, count = 0, 0, 1
    size = tensor.nbytes
    if isinstance(matrix, Part):
        expert, share, count = matrix.expert, matrix.share, len(matrix.leaves)
        size //= tensor.shape[0]
    if tensor.dtype == "BF16" and not matrix.transposed and not matrix.alternate:
        return fill(bytes_of(rows), tensor, expert * size + share * (size // count))
    shape = (count * matrix.out_features, matrix.in_features)
    whole = torch.empty(shape[::-1] if matrix.transposed else shape, dtype=DTYPES[tensor.dtype])
    fill(bytes_of(whole), tensor, expert * size)
    whole = whole.T if matrix.transposed else whole
    rows.copy_(whole[share::count] if matrix.alternate else whole.chunk(count)[share])


def bias(module: Module) -> str:
    """The tensor [experts, outputs] that holds the biases of a stack, where there are any."""
    return f"{module.tensor}_bias"


def biases(module: Module, tensor: Stored) -> Iterator[torch.Tensor]:
    """The biases of `module.matrices`, in their order."""
    values = torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
    fill(bytes_of(values), tensor)
    count = len(module.leaves)
    for expert in values:
        for share in range(count):
            yield (expert[share::count] if module.alternate else expert.chunk(count)[share]).contiguous()


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Its bytes, in place."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
