"""The weights of a model in bf16, whatever its checkpoint stores them in: read a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, lcm
from pathlib import Path

import torch

from qforge.methods import stacks
from qforge.methods.stacks import Part
from qforge.methods.unpack import unpacker
from qforge.models import checkpoint, quantization_config, quantized_source
from qforge.models.checkpoint import Tensor
from qforge.models.modules import Module
from qforge.models.quantized_source import Packed
from qforge.models.shards import CHUNK, fill

ROWS = (
    128  # a piece has a multiple of them: so no block of FP8 is cut, and no word with the zero points of several rows
)
DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu, "U8": torch.uint8, "I8": torch.int8, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
WHOLE = ("weight_global_scale", "weight_scale_2", "weight_g_idx")  # have no rows


class Source:
    """A checkpoint, plain or quantized. `tensors`, `config`: those of its bf16 form."""

    def __init__(self, folder: Path) -> None:
        stored, config = checkpoint.headers(folder), quantization_config.read(folder)
        packing = quantized_source.recognize(stored, config)
        self.stored = stored
        self.packed = packing.matrices if packing else {}
        self.tensors = packing.plain(stored) if packing else dict[str, Tensor](stored)
        self.config = quantization_config.without(config)
        if self.config.get("tie_word_embeddings"):  # some savers write the shared matrix twice
            self.tensors.pop("lm_head.weight", None)

    def place(self, name: str) -> tuple[str, int]:
        """The file that has a tensor, or the first part of it, and where in it."""
        packed = self.packed.get(name)
        first = self.stored[next(iter(packed.parts.values())) if packed else name]
        return first.file.name, first.offset

    def load(self, rows: torch.Tensor, matrix: Module) -> None:
        """Read a matrix, or one of a stack, into bf16 `rows` [out_features, in_features]; rounded where it has more digits."""
        packed = self.packed.get(matrix.tensor)
        if packed is None:
            return stacks.load(rows, matrix, self.stored[matrix.tensor])
        expert, first, last, step = 0, 0, packed.rows, 1
        if isinstance(matrix, Part):
            expert, count = matrix.expert, len(matrix.leaves)
            if matrix.alternate:
                first, step = matrix.share, count
            else:
                first = matrix.share * matrix.out_features
                last = first + matrix.out_features
        filled = 0
        for start, stop in _pieces(packed, first, last):
            begin = max(first, start + (first - start) % step)  # the first row of this piece that is wanted
            values = self._unpacked(packed, expert, start, stop)[begin - start : last - start : step]
            rows[filled : filled + len(values)] = values
            filled += len(values)

    def pieces(self, name: str) -> Iterator[tuple[int, int]]:
        """A tensor in pieces that `read` takes: where each begins among its bytes in bf16, and how many it has."""
        packed, tensor = self.packed.get(name), self.tensors[name]
        if packed is None:
            yield from ((start, min(CHUNK, tensor.nbytes - start)) for start in range(0, tensor.nbytes, CHUNK))
            return
        each, width = 2 * packed.rows * packed.columns, 2 * packed.columns
        for begin in range(0, tensor.nbytes, each):
            if packed.turned:
                yield begin, each
            else:
                yield from ((begin + a * width, (b - a) * width) for a, b in _pieces(packed, 0, packed.rows))

    def read(self, name: str, start: int, size: int, buffer: memoryview) -> memoryview:
        """A piece. What is not packed is read into `buffer`, byte for byte."""
        packed = self.packed.get(name)
        if packed is None:
            fill(buffer[:size], self.stored[name], start)
            return buffer[:size]
        expert, begin = divmod(start, 2 * packed.rows * packed.columns)
        first, count = begin // (2 * packed.columns), size // (2 * packed.columns)
        values = self._unpacked(packed, expert, first, first + count)
        return stacks.bytes_of((values.T if packed.turned else values).contiguous())

    def _unpacked(self, packed: Packed, expert: int, start: int, stop: int) -> torch.Tensor:
        """Rows of a matrix, or of one of a stack, in bf16."""
        parts = {
            part: self._rows(name, part, packed, expert, start, stop)
            for part, name in packed.parts.items()
            if part != "weight_shape"
        }
        if packed.kind.codec == "integers":
            parts["weight_shape"] = torch.tensor([stop - start, packed.columns])
        return unpacker(packed.kind)(parts).to(torch.bfloat16)

    def _rows(self, name: str, part: str, packed: Packed, expert: int, start: int, stop: int) -> torch.Tensor:
        """What a part has of the rows from `start` to `stop`."""
        stored = self.stored[name]
        count, size, shape = stored.count, stored.nbytes, stored.shape
        if len(packed.plain.shape) == 3:  # of one of the stack
            count, size, shape = count // shape[0], size // shape[0], shape[1:]
        first, last, height = 0, 1, 1
        if part not in WHOLE and count > 1:
            each = {"weight_scale": packed.kind.rows, "weight_zero_point": packed.kind.zeros}.get(part, 1)
            first, last, height = start // each, ceil(stop / each), shape[0]
        values = torch.empty((last - first, count // height), dtype=DTYPES[stored.dtype])
        fill(stacks.bytes_of(values), stored, expert * size + first * (size // height))
        return values.view(-1) if part in WHOLE else values


def _pieces(packed: Packed, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Where pieces of a matrix begin and end that hold its rows from `first` to `last`."""
    unit = lcm(ROWS, packed.kind.rows)
    height = max(unit, CHUNK // (2 * packed.columns) // unit * unit)
    for start in range(first // unit * unit, last, height):
        yield start, min(start + height, packed.rows)
