"""The bytes of a checkpoint moved a piece at a time: read into a buffer, written to their place in a new file.

safetensors' own writer wants every tensor of a file in memory at once; a file has no more parts than this needs:
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from qforge.disk import appear
from qforge.models.checkpoint import BYTES, Stored, Tensor

CHUNK = 16 << 20  # bytes copied at once
FILE = 5_000_000_000  # bytes of a file of several, about


def fill(buffer: memoryview, tensor: Stored, start: int = 0) -> None:
    """Read as many of the tensor's bytes as the buffer holds, from byte `start` of it on."""
    descriptor = os.open(tensor.file, os.O_RDONLY)
    try:
        done = 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], tensor.offset + start + done)
            if not count:
                raise EOFError(f"{tensor.file}: ends before {len(buffer) - done} bytes that its header promises")
            done += count
    finally:
        os.close(descriptor)


def write_index(folder: Path, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Say which tensor is in which file, as transformers asks of a checkpoint of several. `files`: tensors by file name."""
    places = {tensor: name for name, tensors in files.items() for tensor in tensors}
    size = sum(t.nbytes for tensors in files.values() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def in_files(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors dealt out to files of about the same size, by the files' names, in their order."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > FILE:
            groups.append({})
            size = 0
        groups[-1][name] = Tensor(tensor.dtype, tensor.shape)
        size += tensor.nbytes
    return {f"model-{number:05}-of-{len(groups):05}.safetensors": group for number, group in enumerate(groups, 1)}


class Shard:
    """A safetensors file in the making: any thread writes any tensor; it has its name when it is whole."""

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        self.file, self.tensors = file, tensors
        self.partial = file.with_name(f"{file.name}.partial")
        self._places, self._header = _layout(tensors)
        self._descriptor = -1

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def finished(self) -> bool:
        """Whether an earlier run has made this very file."""
        if not self.file.exists():
            return False
        with self.file.open("rb") as stream:
            return stream.read(len(self._header)) == self._header

    def open(self) -> None:
        """Begin, in a file of the final size that has its header and holes for the tensors."""
        self._descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.truncate(self._descriptor, len(self._header) + self.nbytes)
        _write(self._descriptor, memoryview(self._header), 0)

    def put(self, name: str, data: memoryview, start: int = 0) -> None:
        """Write bytes of a tensor, from byte `start` of it on."""
        assert start + data.nbytes <= self.tensors[name].nbytes, name
        _write(self._descriptor, data, self._places[name] + start)

    def put_run(self, names: list[str], data: memoryview) -> None:
        """Write tensors that follow one another, as those do that follow one another in `tensors` and have one dtype."""
        begin, last = self._places[names[0]], names[-1]
        assert self._places[last] + self.tensors[last].nbytes - begin == data.nbytes, names[0]
        _write(self._descriptor, data, begin)

    def copy(self, name: str, tensor: Stored) -> None:
        """Write a tensor as it lies in another file, a piece at a time."""
        buffer = memoryview(bytearray(min(CHUNK, tensor.nbytes)))
        for start in range(0, tensor.nbytes, CHUNK):
            part = buffer[: min(CHUNK, tensor.nbytes - start)]
            fill(part, tensor, start)
            self.put(name, part, start)

    def close(self) -> None:
        """Everything is written: the file gets its name."""
        os.close(self._descriptor)
        appear(self.partial, self.file)


def copy_all(tensors: Mapping[str, Stored], folder: Path) -> None:
    """The tensors as they lie in other files, under these names, as the files of a checkpoint in `folder`, index included."""
    files = in_files(tensors)
    for file, held in files.items():
        shard = Shard(folder / file, held)
        shard.open()
        for name in held:
            shard.copy(name, tensors[name])
        shard.close()
    write_index(folder, files)


def _layout(tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], bytes]:
    """Where each tensor begins in the file, in the order given, and the header. Wide types first: so all are aligned."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    begin, places = 0, {}
    for name in sorted(tensors, key=lambda name: -BYTES[tensors[name].dtype]):
        tensor = tensors[name]
        end = begin + tensor.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        places[name], begin = begin, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return {name: 8 + len(text) + place for name, place in places.items()}, len(text).to_bytes(8, "little") + text


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data.nbytes:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
