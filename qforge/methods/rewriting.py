"""A checkpoint into a new one as a stream, a few megabytes at a time; what the source has packed is unpacked to bf16."""

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
from tqdm import tqdm

from qforge.methods.source import Source
from qforge.methods.stacks import bytes_of
from qforge.models.checkpoint import Tensor
from qforge.models.shards import CHUNK, Shard, write_index

WORKERS = 8  # at most; each holds one buffer
TOGETHER = 4  # files at once: a file system lets one thread at a time write to a file

Step = Callable[[Shard, Any], None]  # a part of the work that makes a file; it moves the bar on


@dataclass
class File:
    """A file of the new checkpoint: its tensors, and the work that makes them, in any order."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


class Rewriting:
    """One checkpoint on its way through. The new files have the names of the source's."""

    desc, device, largest = "unpack", "cpu", CHUNK  # of a bar; of the work; bytes of a worker's buffer

    def __init__(self, source: Source) -> None:
        self.source = source
        self.files = {name: File() for name in sorted({source.place(name)[0] for name in source.tensors})}
        self.own = threading.local()  # of each worker

    def copy(self, name: str) -> None:
        """Plan a tensor that is not quantized: byte for byte, since what is in 32 bits may need them (a router's biases)."""
        file, tensor = self.files[self.source.place(name)[0]], self.source.tensors[name]
        file.tensors[name] = Tensor(tensor.dtype, tensor.shape)
        file.steps += [partial(self._copy, name, start, size) for start, size in self.source.pieces(name)]

    def write(self, out: Path) -> None:
        """Make every file and the index, without which transformers reads no file of another name.

        Finished files wait beside <out>'s folder until all are there, so a job that was killed goes on after them. That
        folder's name, in the store the key of the result, stands for everything that decides their content.
        """
        self.files = {name: file for name, file in self.files.items() if file.tensors}
        waiting = out.parent.with_suffix(".shards")
        waiting.mkdir(parents=True, exist_ok=True)
        shards = {name: Shard(waiting / name, file.tensors) for name, file in self.files.items()}
        self._run(shards)
        out.mkdir(parents=True, exist_ok=True)
        for shard in shards.values():
            shard.file.rename(out / shard.file.name)
        shutil.rmtree(waiting)
        (out / "config.json").write_text(json.dumps(self._config(), indent=2) + "\n")
        if self.files.keys() != {"model.safetensors"}:
            write_index(out, {name: file.tensors for name, file in self.files.items()})

    def _config(self) -> dict[str, Any]:
        """The source's config.json for weights in bf16."""
        config = dict(self.source.config)
        for key in {"dtype", "torch_dtype"} & config.keys():
            config[key] = "bfloat16"
        return config

    def _run(self, shards: dict[str, Shard]) -> None:
        """Make every file that is not there yet, a few at a time, several steps at once."""
        todo = {shard: self.files[name] for name, shard in shards.items() if not shard.finished}
        workers = min(WORKERS, len(os.sched_getaffinity(0)))
        if self.device == "cpu":
            torch.set_num_threads(1)  # the workers are the threads
        total = sum(shard.nbytes for shard in shards.values())
        done = total - sum(shard.nbytes for shard in todo)
        bar = tqdm(total=total, initial=done, desc=self.desc, unit="B", unit_scale=True)
        with ThreadPoolExecutor(workers, initializer=self._equip) as pool, bar:
            begun: dict[Shard, list[Future[None]]] = {shard: [] for shard in todo}
            for shard, step in in_turn({shard: _opened(shard, file) for shard, file in todo.items()}):
                begun[shard].append(pool.submit(step, shard, bar))
            for shard, work in begun.items():
                ended, _ = wait(work, return_when=FIRST_EXCEPTION)
                if any(future.exception() for future in ended):
                    pool.shutdown(cancel_futures=True)
                for future in ended:
                    future.result()
                shard.close()

    def _equip(self) -> None:
        """Give this worker its buffer."""
        self.own.buffer = torch.empty(self.largest // 2, dtype=torch.bfloat16, pin_memory=self.device == "cuda")

    def _copy(self, name: str, start: int, size: int, shard: Shard, bar: Any) -> None:
        part = self.source.read(name, start, size, bytes_of(self.own.buffer))
        shard.put(name, part, start)
        bar.update(part.nbytes)


def _opened(shard: Shard, file: File) -> list[Step]:
    shard.open()
    return file.steps


def in_turn(work: dict[Shard, list[Step]]) -> Iterator[tuple[Shard, Step]]:
    """The steps of a few files, one of each in turn, then those of the next few: a killed job loses only these."""
    files = list(work.items())
    for begin in range(0, len(files), TOGETHER):
        lanes = [[(shard, step) for step in steps] for shard, steps in files[begin : begin + TOGETHER]]
        yield from (step for turn in zip_longest(*lanes) for step in turn if step)


def unpack(folder: Path, out: Path) -> None:
    """Write the quantized checkpoint in `folder` to `out` as a plain one, in bf16."""
    rewriting = Rewriting(Source(folder))
    for name in rewriting.source.tensors:
        rewriting.copy(name)
    rewriting.write(out)
