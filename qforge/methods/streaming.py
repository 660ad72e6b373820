"""Methods that look at no data, as a stream: weights are read, packed and written a few megabytes at a time.

No model is built, so memory does not grow with it. The method's `args` are a recipe of llm-compressor with one
QuantizationModifier, and of a mix there is one for each format; the tensors are those that llm-compressor makes of it from a
model in memory, byte for byte.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor

from qforge.config.job import Job
from qforge.config.method import Scheme
from qforge.envs.request import Refused
from qforge.methods import stacks
from qforge.methods.groups import described
from qforge.methods.packing import Packer, sets
from qforge.methods.rewriting import Rewriting
from qforge.methods.source import Source
from qforge.methods.stacks import bytes_of
from qforge.models import structure
from qforge.models.checkpoint import Tensor
from qforge.models.formats import FORMATS, Format
from qforge.models.modules import Module, from_tensors
from qforge.models.shards import Shard
from qforge.plan import mix

BATCH = {"cpu": 16 << 20, "cuda": 64 << 20}  # bytes of bf16 weights in a batch, or one set where that is larger
IN_MEMORY = "method.function=qforge.methods.llmcompressor:quantize, which loads the whole model"

Batch = list[list[Module]]  # sets of matrices, all of one width; the matrices of a set share NVFP4's global scale


@dataclass(frozen=True)
class Work:
    """What is packed alike: all that is packed, or in a mix what has one of its formats."""

    packer: Packer
    layout: Format
    matrices: list[Module]

    def packed(self, matrix: Module) -> dict[str, Tensor]:
        """The tensors of a matrix, by suffix."""
        return self.layout.packed(matrix.out_features, matrix.in_features, self.packer.args.group_size or -1)


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a compressed-tensors checkpoint in `out`; returns the recipe as it was run."""
    method = job.method
    schemes = method.schemes or {method.name: Scheme(method.format, job.group_size, method.args)}
    recipes = {name: dict(scheme.args["QuantizationModifier"], ignore=exempt) for name, scheme in schemes.items()}
    try:
        packers = {name: Packer(recipe) for name, recipe in recipes.items()}
        for packer in packers.values():
            threading.Thread(target=packer.warm_up).start()  # meanwhile the files are planned
        built = structure.read(Path(job.model.structure)) if job.model.structure else None
        read = Source(source)
        tree = from_tensors(read.tensors, read.config, built)
        given = mix.assigned(method.formats, tree) if method.formats else {m.name: method.name for m in tree}
        left_alone = set(exempt)
        linear = [m for m in tree if m.linear and m.name not in left_alone]
        work = [
            Work(packer, FORMATS[schemes[name].format], members)
            for name, packer in packers.items()
            if (members := [m for m in linear if given.get(m.name) == name])
        ]
        stream = Stream(read, work)
    except ValueError as refusal:
        raise Refused(f"{refusal}; or use {IN_MEMORY}") from None
    stream.write(out)
    groups = [(each.packer, each.matrices) for each in work]
    config = described(groups) if method.formats else work[0].packer.config
    ModelCompressor(quantization_config=config).update_config(out)
    return {"formats": recipes} if method.formats else {"QuantizationModifier": recipes[method.name]}


class Stream(Rewriting):
    """One checkpoint on its way through, to be quantized."""

    desc = "quantize"

    def __init__(self, source: Source, work: Sequence[Work]) -> None:
        super().__init__(source)
        self.device = work[0].packer.device.type
        for each in work:
            self._refuse(each)
        self._plan(work)

    def _refuse(self, work: Work) -> None:
        if not work.packer.args.symmetric:
            raise ValueError(
                "method.args: symmetric=false: zero points are packed across rows, and this method packs row by row"
            )
        for matrix in work.matrices:
            if matrix.dtype not in stacks.DTYPES:
                raise ValueError(f"model: {matrix.tensor} is {matrix.dtype}; give a model in bf16, fp16 or fp32")

    # -- what goes where

    def _plan(self, work: Sequence[Work]) -> None:
        """What becomes of every tensor. A set goes where its first matrix was."""
        matrices = [m for each in work for m in each.matrices]
        biased = [m for m in matrices if m.stack > 1 and stacks.bias(m) in self.source.tensors]
        apart = {m.tensor for m in matrices} | {stacks.bias(m) for m in biased}
        for name in self.source.tensors:
            if name not in apart:
                self.copy(name)
        for module in biased:
            stored = self.source.stored[stacks.bias(module)]
            file = self.files[stored.file.name]
            file.steps.append(partial(self._biases, module))
            file.tensors |= {f"{name}.bias": Tensor(stored.dtype, (rows,)) for name, rows, _ in module.matrices}
        for each in work:
            for batch in self._batches([part for m in each.matrices for part in stacks.parts(m)]):
                self._plan_batch(each, batch)

    def _plan_batch(self, work: Work, batch: Batch) -> None:
        self.largest = max(self.largest, _nbytes(batch))
        file = self.files[self._place(batch[0])[0]]
        file.steps.append(partial(self._convert, work, batch))
        made = {matrix.name: work.packed(matrix) for fused in batch for matrix in fused}
        for suffix in work.packed(batch[0][0]):  # those of one suffix together: one write for all of them
            file.tensors |= {f"{name}.{suffix}": tensors[suffix] for name, tensors in made.items()}

    def _place(self, fused: list[Module]) -> tuple[str, int]:
        return self.source.place(fused[0].tensor)

    def _batches(self, matrices: list[Module]) -> Iterator[Batch]:
        """Sets of one file and one width, in the order of the file."""
        begun: dict[tuple[str, int], Batch] = {}
        for members in sorted(sets(matrices), key=self._place):
            key = (self._place(members)[0], members[0].in_features)
            if key in begun and _nbytes([*begun[key], members]) > BATCH[self.device]:
                yield begun.pop(key)
            begun.setdefault(key, []).append(members)
        yield from begun.values()

    # -- the way of the weights

    def _biases(self, module: Module, shard: Shard, bar: Any) -> None:
        tensor = self.source.stored[stacks.bias(module)]
        for (name, _, _), values in zip(module.matrices, stacks.biases(module, tensor), strict=True):
            shard.put(f"{name}.bias", bytes_of(values))
        bar.update(tensor.nbytes)

    def _convert(self, work: Work, batch: Batch, shard: Shard, bar: Any) -> None:
        matrices = [m for fused in batch for m in fused]
        rows = self.own.buffer[: _nbytes(batch) // 2].view(-1, matrices[0].in_features)
        for matrix, part in zip(matrices, rows.split([m.out_features for m in matrices]), strict=True):
            self.source.load(part, matrix)
        packed, shared = work.packer.pack(rows, [sum(m.out_features for m in fused) for fused in batch])
        packed["weight_shape"] = torch.tensor([[m.out_features, m.in_features] for m in matrices])
        packed["weight_global_scale"] = shared.repeat_interleave(torch.tensor([len(fused) for fused in batch]))
        for suffix in work.packed(matrices[0]):
            data = bytes_of(packed[suffix])
            shard.put_run([f"{m.name}.{suffix}" for m in matrices], data)
            bar.update(data.nbytes)


def _nbytes(batch: Batch) -> int:
    """As bf16."""
    return sum(2 * m.out_features * m.in_features for fused in batch for m in fused)
