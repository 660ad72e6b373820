"""Methods that look at no data, as a stream: weights are read, packed and written a few megabytes at a time.

No model is built, so memory does not grow with it. The method's `args` are a recipe of llm-compressor with one
QuantizationModifier; the tensors are those that llm-compressor makes of it from a model in memory, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from tqdm import tqdm

from qforge import json_files
from qforge.config.job import Job
from qforge.envs.request import Refused
from qforge.methods import stacks
from qforge.methods.packing import Packer, sets
from qforge.models import checkpoint, structure
from qforge.models.checkpoint import Tensor
from qforge.models.formats import FORMATS
from qforge.models.modules import Module, from_tensors
from qforge.models.shards import CHUNK, Shard, fill, write_index
from qforge.models.structure import Structure

WORKERS = 8  # at most; each holds one batch
TOGETHER = 4  # files at once: a file system lets one thread at a time write to a file
BATCH = {"cpu": 16 << 20, "cuda": 64 << 20}  # bytes of bf16 weights in a batch, or one set where that is larger
IN_MEMORY = "method.function=qforge.methods.llmcompressor:quantize, which loads the whole model"

Batch = list[list[Module]]  # sets of matrices, all of one width; the matrices of a set share NVFP4's global scale


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a compressed-tensors checkpoint in `out`; returns the recipe as it was run.

    Finished files wait beside <out>'s folder until all are there, so a job that was killed goes on after them. That
    folder's name, in the store the key of the result, stands for everything that decides their content.
    """
    recipe = {"QuantizationModifier": dict(job.method.args["QuantizationModifier"], ignore=exempt)}
    try:
        packer = Packer(recipe["QuantizationModifier"])
        threading.Thread(target=packer.warm_up).start()  # meanwhile the files are planned
        built = structure.read(Path(job.model.structure)) if job.model.structure else None
        stream = Stream(source, job.method.format, packer, exempt, built)
    except ValueError as refusal:
        raise Refused(f"{refusal}; or use {IN_MEMORY}") from None
    waiting = out.parent.with_suffix(".shards")
    waiting.mkdir(parents=True, exist_ok=True)
    shards = {name: Shard(waiting / name, file.tensors) for name, file in stream.files.items()}
    stream.run(shards)
    out.mkdir(parents=True, exist_ok=True)
    for shard in shards.values():
        shard.file.rename(out / shard.file.name)
    shutil.rmtree(waiting)
    stream.describe(out)
    return recipe


@dataclass
class File:
    """A file of the new checkpoint: its tensors, and the work that makes them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    biases: list[Module] = field(default_factory=list)  # stacks whose experts have biases, which lie in one tensor too


class Stream:
    """One checkpoint on its way through."""

    def __init__(
        self, source: Path, layout: str, packer: Packer, exempt: list[str], built: Structure | None = None
    ) -> None:
        self.layout, self.packer = FORMATS[layout], packer
        self.tensors, self.config = checkpoint.headers(source), json_files.read_json(source / "config.json")
        if self.config.get("tie_word_embeddings"):  # some savers write the shared matrix twice
            self.tensors.pop("lm_head.weight", None)
        left_alone = set(exempt)
        tree = from_tensors(self.tensors, self.config, built)
        linear = [m for m in tree if m.linear and m.name not in left_alone]
        self._refuse(linear)
        self.files = self._plan(linear)
        self.own = threading.local()  # of each worker

    def _refuse(self, matrices: list[Module]) -> None:
        if not self.packer.args.symmetric:
            raise ValueError(
                "method.args: symmetric=false: zero points are packed across rows, and this method packs row by row"
            )
        for matrix in matrices:
            if matrix.dtype not in stacks.DTYPES:
                raise ValueError(f"model: {matrix.tensor} is {matrix.dtype}; give a model in bf16, fp16 or fp32")

    # -- what goes where

    def _plan(self, matrices: list[Module]) -> dict[str, File]:
        """The new files by name, which are the source's. A set goes where its first matrix was."""
        files = {name: File() for name in sorted({t.file.name for t in self.tensors.values()})}
        biased = [m for m in matrices if m.stack > 1 and stacks.bias(m) in self.tensors]
        apart = {m.tensor for m in matrices} | {stacks.bias(m) for m in biased}
        for name, tensor in self.tensors.items():
            if name not in apart:
                file = files[tensor.file.name]
                file.copies.append(name)
                file.tensors[name] = Tensor(tensor.dtype, tensor.shape)
        for module in biased:
            stored = self.tensors[stacks.bias(module)]
            file = files[stored.file.name]
            file.biases.append(module)
            file.tensors |= {f"{name}.bias": Tensor(stored.dtype, (rows,)) for name, rows, _ in module.matrices}
        for batch in self._batches([part for m in matrices for part in stacks.parts(m)]):
            file = files[self._place(batch[0])[0]]
            file.batches.append(batch)
            made = {matrix.name: self._packed(matrix) for fused in batch for matrix in fused}
            for suffix in self._packed(batch[0][0]):  # those of one suffix together: one write for all of them
                file.tensors |= {f"{name}.{suffix}": tensors[suffix] for name, tensors in made.items()}
        return {name: file for name, file in files.items() if file.tensors}

    def _packed(self, matrix: Module) -> dict[str, Tensor]:
        return self.layout.packed(matrix.out_features, matrix.in_features, self.packer.args.group_size or -1)

    def _place(self, fused: list[Module]) -> tuple[str, int]:
        first = self.tensors[fused[0].tensor]
        return first.file.name, first.offset

    def _batches(self, matrices: list[Module]) -> Iterator[Batch]:
        """Sets of one file and one width, in the order of the file."""
        begun: dict[tuple[str, int], Batch] = {}
        for members in sorted(sets(matrices), key=self._place):
            key = (self._place(members)[0], members[0].in_features)
            if key in begun and _nbytes([*begun[key], members]) > BATCH[self.packer.device.type]:
                yield begun.pop(key)
            begun.setdefault(key, []).append(members)
        yield from begun.values()

    # -- the way of the weights

    def run(self, shards: dict[str, Shard]) -> None:
        """Make every file that is not there yet, a few at a time, several batches at once."""
        todo = {shard: self.files[name] for name, shard in shards.items() if not shard.finished}
        workers = min(WORKERS, len(os.sched_getaffinity(0)))
        if self.packer.device.type == "cpu":
            torch.set_num_threads(1)  # the workers are the threads
        largest = max((_nbytes(batch) for file in todo.values() for batch in file.batches), default=0)
        total = sum(shard.nbytes for shard in shards.values())
        done = total - sum(shard.nbytes for shard in todo)
        bar = tqdm(total=total, initial=done, desc="quantize", unit="B", unit_scale=True)
        with ThreadPoolExecutor(workers, initializer=self._equip, initargs=(max(largest, CHUNK),)) as pool, bar:
            begun: dict[Shard, list[Future[None]]] = {shard: [] for shard in todo}
            for shard, step in in_turn({shard: self._steps(shard, file, bar) for shard, file in todo.items()}):
                begun[shard].append(pool.submit(step))
            for shard, work in begun.items():
                ended, _ = wait(work, return_when=FIRST_EXCEPTION)
                if any(future.exception() for future in ended):
                    pool.shutdown(cancel_futures=True)
                for future in ended:
                    future.result()
                shard.close()

    def _equip(self, size: int) -> None:
        """Give this worker its buffer."""
        self.own.buffer = torch.empty(size // 2, dtype=torch.bfloat16, pin_memory=self.packer.device.type == "cuda")

    def _steps(self, shard: Shard, file: File, bar: Any) -> list[Callable[[], None]]:
        """The work that makes a file, in any order."""
        shard.open()
        parts = [(name, start) for name in file.copies for start in range(0, self.tensors[name].nbytes, CHUNK)]
        copies = [partial(self._copy, shard, name, start, bar) for name, start in parts]
        copies += [partial(self._biases, shard, module, bar) for module in file.biases]
        return [*copies, *(partial(self._convert, shard, batch, bar) for batch in file.batches)]

    def _copy(self, shard: Shard, name: str, start: int, bar: Any) -> None:
        """A part of a tensor that is not quantized, byte for byte: what is in 32 bits may need them (a router's biases)."""
        tensor = self.tensors[name]
        part = _bytes(self.own.buffer)[: min(CHUNK, tensor.nbytes - start)]
        fill(part, tensor, start)
        shard.put(name, part, start)
        bar.update(part.nbytes)

    def _biases(self, shard: Shard, module: Module, bar: Any) -> None:
        tensor = self.tensors[stacks.bias(module)]
        for (name, _, _), values in zip(module.matrices, stacks.biases(module, tensor), strict=True):
            shard.put(f"{name}.bias", _bytes(values))
        bar.update(tensor.nbytes)

    def _convert(self, shard: Shard, batch: Batch, bar: Any) -> None:
        matrices = [m for fused in batch for m in fused]
        rows = self.own.buffer[: _nbytes(batch) // 2].view(-1, matrices[0].in_features)
        for matrix, part in zip(matrices, rows.split([m.out_features for m in matrices]), strict=True):
            stacks.load(part, matrix, self.tensors[matrix.tensor])
        packed, shared = self.packer.pack(rows, [sum(m.out_features for m in fused) for fused in batch])
        packed["weight_shape"] = torch.tensor([[m.out_features, m.in_features] for m in matrices])
        packed["weight_global_scale"] = shared.repeat_interleave(torch.tensor([len(fused) for fused in batch]))
        for suffix in self._packed(matrices[0]):
            data = _bytes(packed[suffix])
            shard.put_run([f"{m.name}.{suffix}" for m in matrices], data)
            bar.update(data.nbytes)

    # -- what stands beside them

    def describe(self, out: Path) -> None:
        """config.json, the source's with llm-compressor's quantization_config, and the index, without which transformers
        reads no file of another name."""
        config = dict(self.config)
        for key in {"dtype", "torch_dtype"} & config.keys():
            config[key] = "bfloat16"
        (out / "config.json").write_text(json.dumps(config))
        ModelCompressor(quantization_config=self.packer.config).update_config(out)
        if self.files.keys() != {"model.safetensors"}:
            write_index(out, {name: file.tensors for name, file in self.files.items()})


def in_turn(work: dict[Shard, list[Callable[[], None]]]) -> Iterator[tuple[Shard, Callable[[], None]]]:
    """The steps of a few files, one of each in turn, then those of the next few: a killed job loses only these."""
    files = list(work.items())
    for begin in range(0, len(files), TOGETHER):
        lanes = [[(shard, step) for step in steps] for shard, steps in files[begin : begin + TOGETHER]]
        yield from (step for turn in zip_longest(*lanes) for step in turn if step)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _nbytes(batch: Batch) -> int:
    """As bf16."""
    return sum(2 * m.out_features * m.in_features for fused in batch for m in fused)
