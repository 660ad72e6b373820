"""Matrices to packed tensors by a recipe's scheme: compressed-tensors' scales and packing, many matrices in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import QuantizationStatus, QuantizationStrategy
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.observers import MemorylessMinMaxObserver
from llmcompressor.observers.helpers import FUSED_LAYER_NAMES

from qforge.models.modules import Module

BLOCK = {"cpu": 2 << 20, "cuda": 64 << 20}  # bytes packed by one call: what stays in a core's cache; what fills a GPU

QUEUES = 3  # of a GPU: each keeps the memory of its batches, and workers of the stream need one a fifth of their time


def sets(matrices: Iterable[Module]) -> list[list[Module]]:
    """The matrices by what shares NVFP4's global scale: what vLLM computes as one matrix, or llm-compressor thinks it does."""
    groups: dict[tuple[Any, ...], list[Module]] = {}
    for matrix in matrices:
        parent, _, leaf = matrix.name.rpartition(".")
        own = leaf if matrix.kind == "expert" else matrix.fused
        usual = next((group for group in FUSED_LAYER_NAMES if leaf in group), own)
        fused = own if matrix.kind != "expert" and own != matrix.served else usual  # OLMo hybrid: q, k, v and a gate
        groups.setdefault((parent, fused, matrix.in_features), []).append(matrix)
    return list(groups.values())


class Packer:
    """The scheme of a llm-compressor `QuantizationModifier`, for weights alone.

    Rows of a matrix do not know of one another in any of these formats, so matrices of equal width are packed as one
    tall matrix. Only NVFP4's global scale belongs to a whole matrix, or to the set that is computed as one.
    """

    def __init__(self, modifier: dict[str, Any]) -> None:
        resolved = QuantizationModifier(**modifier).resolve_quantization_config()
        (self.scheme,) = resolved.config_groups.values()
        self.args = self.scheme.weights
        if self.args.observer != "memoryless_minmax":
            raise ValueError(
                f"method.args: observer={self.args.observer}: only min-max scales can be computed row by row"
            )
        self.scheme.format = CompressionFormat(self.scheme.format or infer_module_format(torch.nn.Linear, self.scheme))
        # as llm-compressor describes a model whose matrices share one scheme
        done = {"config_groups": {"group_0": self.scheme}, "quantization_status": QuantizationStatus.COMPRESSED}
        self.config = resolved.model_copy(update={**done, "format": self.scheme.format.value})
        self.compressor = BaseCompressor.get_value_from_registry(self.scheme.format.value)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.queues: SimpleQueue[torch.cuda.Stream | None] = SimpleQueue()  # that are free; None: not made yet
        for _ in range(QUEUES):
            self.queues.put(None)  # the first would start CUDA, which warm_up does beside other work

    def pack(self, rows: torch.Tensor, sets: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Quantize bf16 `rows` [R, in_features]; `sets` are the numbers of rows that share a global scale, R in all.

        Returns, on the CPU, the packed tensors by suffix, each with R rows, and the global scales [len(sets)], which
        are ones where the format has none. Threads may call it at once.
        """
        with self._queue():
            return self._pack(rows, sets)

    @contextmanager
    def _queue(self) -> Iterator[None]:
        """On a GPU, a queue that no other thread has meanwhile: copies wait for no other thread's kernels."""
        if self.device.type == "cpu":
            yield
            return
        queue = self.queues.get() or torch.cuda.Stream()
        queue.wait_stream(torch.cuda.current_stream())  # of the caller, who may have just made the rows
        try:
            with torch.cuda.stream(queue):
                yield
        finally:
            self.queues.put(queue)

    def _pack(self, rows: torch.Tensor, sets: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        owners = self._owners(sets)
        rows = rows.to(self.device, non_blocking=True)  # they are the caller's again when the results are there
        observer = MemorylessMinMaxObserver("weight", self.args)
        observer(rows)
        low, high = observer.min_vals, observer.max_vals  # [R, groups]
        shared = self._shared(low, high, owners, len(sets))
        each = None if shared is None else shared[owners, None]  # [R, 1]
        scale, zero = calculate_qparams(low, high, self.args, each)
        scale = scale.to(rows.dtype)
        packed = self._compress(rows, scale if each is None else scale / each, zero)
        if each is not None:  # the packer had them without the global ones
            packed["weight_scale"] = scale.to(self.args.scale_dtype)
        shared = torch.ones(len(sets)) if shared is None else shared.cpu()
        tensors = {name: _on_cpu(tensor) for name, tensor in packed.items()}
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return tensors, shared

    def warm_up(self) -> None:
        """Start CUDA and compile the kernels, where there are any."""
        if self.device.type == "cuda":
            self.pack(torch.ones(64, 16 * max(128, self.args.group_size or 0), dtype=torch.bfloat16), [64])

    def round(self, rows: torch.Tensor) -> torch.Tensor:
        """What is stored of one matrix, or of a set with one global scale, as bf16 again."""
        packed, shared = self.pack(rows, [len(rows)])
        part = {**packed, "weight_shape": torch.tensor(rows.shape)}
        if self.args.strategy == QuantizationStrategy.TENSOR_GROUP:
            part["weight_global_scale"] = shared
        plain: torch.Tensor = self.compressor.decompress(part, self.scheme)["weight"]
        return plain.to(torch.bfloat16)

    def _shared(self, low: torch.Tensor, high: torch.Tensor, owners: torch.Tensor, sets: int) -> torch.Tensor | None:
        """The sets' global scales, from the largest weight of each, as llm-compressor's Observer.get_global_scale."""
        if self.args.strategy != QuantizationStrategy.TENSOR_GROUP:
            return None
        rows = torch.maximum(high, -low).amax(1)  # none is below zero
        largest = rows.new_zeros(sets).scatter_reduce(0, owners, rows, "amax")
        return torch.vmap(generate_gparam)(-largest, largest)[:, 0]

    def _owners(self, sets: list[int]) -> torch.Tensor:
        """The number of the set of each row."""
        return torch.arange(len(sets)).repeat_interleave(torch.tensor(sets)).to(self.device)

    def _compress(self, rows: torch.Tensor, unit: torch.Tensor, zero: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pack with the scales [R, groups]. Global ones are divided out already: a packer takes one for all rows.

        Zero points, where the format has them, are packed eight rows to a word.
        """
        height = max(8, BLOCK[self.device.type] // rows[0].nbytes // 8 * 8)
        parts = [
            self.compressor.compress({"weight": some, "weight_scale": scale, "weight_zero_point": point}, self.scheme)
            for some, scale, point in zip(*(x.split(height) for x in (rows, unit, zero)), strict=True)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "weight_shape"}


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """On its way into pinned memory, which torch keeps for the next batch; fresh pages take 28 times as long (H200)."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
