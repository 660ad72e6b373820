"""The tensors of a planned checkpoint, and how many bytes and bits they come to."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qforge.models.checkpoint import Tensor
from qforge.models.formats import FORMATS, Format
from qforge.models.modules import Module
from qforge.plan.share import Share

REST = "norms and biases"


@dataclass(frozen=True)
class Part:
    """What becomes of the modules of one kind. Norms and biases are a kind of their own."""

    modules: int
    quantized: int
    bf16_bytes: int
    bytes: int


def packed(tensors: Mapping[str, Tensor], shares: Sequence[Share]) -> dict[str, Tensor]:
    """The tensors of the source, with those of each share in its format."""
    made = dict(tensors)
    for share in shares:
        for module in share.modules:
            _pack(made, module, share.format, share.group_size)
    return made


def unpacked(tensors: Mapping[str, Tensor], shares: Sequence[Share]) -> dict[str, Tensor]:
    """The same of a simulated checkpoint: every matrix in bf16, those of stacks each by itself."""
    made = dict(tensors)
    for share in shares:
        for module in share.modules:
            _pack(made, module, FORMATS["bf16"], None)
    return made


def _pack(tensors: dict[str, Tensor], module: Module, layout: Format, group: int | None) -> None:
    del tensors[module.tensor]
    bias = tensors.pop(f"{module.tensor}_bias", None) if module.stack > 1 else None
    for name, rows, columns in module.matrices:
        for suffix, tensor in _matrix(layout, rows, columns, group or 0).items():
            tensors[f"{name}.{suffix}"] = tensor
        if bias:
            tensors[f"{name}.bias"] = Tensor(bias.dtype, (rows,))


@functools.cache  # the matrices of a model have a few dozen shapes
def _matrix(layout: Format, rows: int, columns: int, group: int) -> dict[str, Tensor]:
    return layout.packed(rows, columns, group)


def parts(
    tree: Sequence[Module], quantized: Sequence[Module], tensors: Mapping[str, Tensor], packed: Mapping[str, Tensor]
) -> dict[str, Part]:
    """By kind of module; `tensors` of the source, `packed` of the planned checkpoint."""
    kinds = {m.name: m.kind for m in tree}
    kinds |= {name: m.kind for m in quantized if m.stack > 1 for name, _, _ in m.matrices}
    bf16, after = Counter[str](), Counter[str]()
    for counted, held in ((bf16, tensors), (after, packed)):
        for name, tensor in held.items():
            module = name.partition(".weight.")[0]  # x.weight.absmax is of x, as x.weight is
            kind = kinds.get(module) or kinds.get(module.rpartition(".")[0], REST)
            counted[kind] += tensor.nbytes
    total, treated = Counter(m.kind for m in tree), Counter(m.kind for m in quantized)
    return {kind: Part(total[kind], treated[kind], bf16[kind], after[kind]) for kind in bf16}


def nbytes(module: Module, layout: Format, group: int | None) -> int:
    """Of a matrix, or a stack, in this format, scales included."""
    made = [_matrix(layout, rows, columns, group or 0) for _, rows, columns in module.matrices]
    return sum(t.nbytes for tensors in made for t in tensors.values())


def bits(shares: Sequence[Share]) -> float | None:
    """Per weight of what is packed, scales included; none where nothing is."""
    size = sum(nbytes(module, share.format, share.group_size) for share in shares for module in share.modules)
    parameters = sum(module.parameters for share in shares for module in share.modules)
    return 8 * size / parameters if parameters else None
