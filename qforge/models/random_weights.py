"""A checkpoint of random weights, made as fast as it can be written and in little memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qforge.models import architectures
from qforge.models.checkpoint import Tensor
from qforge.models.shards import Shard, in_files, write_index

BLOCK = 64 << 20
STANDARD_DEVIATION = 0.02  # as transformers initializes most architectures


def write(
    config: dict[str, Any], folder: Path, deviations: Mapping[str, float] | None = None, threads: int = 8
) -> None:
    """The weights that this config.json describes, in bf16, in `folder`.

    Matrices are taken from one block of normal numbers, each from another place on; norms are ones. `deviations`: standard
    deviations of other tensors than STANDARD_DEVIATION, by the beginning of their names; the first that fits counts.
    """
    deviations = deviations or {}
    blocks = {deviation: _normal(BLOCK, deviation) for deviation in {STANDARD_DEVIATION, *deviations.values()}}
    tensors = {name: Tensor("BF16", tensor.shape) for name, tensor in architectures.tensors(config).items()}
    shards = [Shard(folder / name, group) for name, group in in_files(tensors).items()]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda shard: _fill(shard, lambda name: blocks[_deviation(name, deviations)]), shards))
    write_index(folder, {shard.file.name: shard.tensors for shard in shards})


def _deviation(name: str, deviations: Mapping[str, float]) -> float:
    return next((value for start, value in deviations.items() if name.startswith(start)), STANDARD_DEVIATION)


def _normal(size: int, deviation: float) -> memoryview:
    """`size` bytes of bf16, cut off from float32."""
    import numpy as np

    values = np.random.default_rng(0).normal(0, deviation, size // 2).astype(np.float32)
    return memoryview((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def _fill(shard: Shard, block_of: Callable[[str], memoryview]) -> None:
    half = BLOCK // 2
    ones = memoryview(b"\x80\x3f" * (1 << 16))  # 1.0
    shard.open()
    for number, (name, tensor) in enumerate(shard.tensors.items()):
        if len(tensor.shape) == 1 and name.endswith(".weight"):  # of a norm, whatever it is called
            shard.put(name, ones[: tensor.nbytes])
            continue
        block = block_of(name)
        begin = number * 4098 % half  # an odd number of values: no two neighbours are alike
        for start in range(0, tensor.nbytes, half):
            shard.put(name, block[begin : begin + min(half, tensor.nbytes - start)], start)
    shard.close()
