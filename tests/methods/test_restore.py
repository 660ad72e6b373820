"""What a library drops or rounds is put back; what a method changes on purpose is not."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from qforge.methods.restore import ADDED, restore
from qforge.models.checkpoint import Tensor, headers
from qforge.models.shards import Shard, write_index

BIAS = np.linspace(6.817, 7.063, 256, dtype=np.float32)  # a router's, of GLM
NORM = np.linspace(0.9, 1.1, 64, dtype=np.float32)
DRAFT = np.arange(32, dtype=np.float32).astype(ml_dtypes.bfloat16)


def write(file: Path, tensors: dict[str, np.ndarray]) -> dict[str, Tensor]:
    shapes = {n: Tensor("F32" if v.dtype == np.float32 else "BF16", v.shape) for n, v in tensors.items()}
    shard = Shard(file, shapes)
    shard.open()
    for name, values in tensors.items():
        shard.put(name, memoryview(values.reshape(-1).view(np.uint8)))
    shard.close()
    return shapes


def checkpoints(folder: Path, files: int) -> tuple[Path, Path]:
    """A source, and what a library made of it: the bias rounded, the norm scaled, the drafting layer dropped."""
    source, artifact = folder / "source", folder / "artifact"
    source.mkdir()
    artifact.mkdir()
    write(source / "model.safetensors", {"bias": BIAS, "norm": NORM, "draft": DRAFT, "other": DRAFT})
    made = {"bias": BIAS.astype(ml_dtypes.bfloat16), "norm": (2 * NORM).astype(ml_dtypes.bfloat16), "other": DRAFT}
    names = [f"{number}.safetensors" for number in range(files)]
    parts = {name: dict(list(made.items())[number::files]) for number, name in enumerate(names)}
    shapes = {name: write(artifact / name, tensors) for name, tensors in parts.items()}
    if files > 1:
        write_index(artifact, shapes)
    return source, artifact


def test_rounded_and_dropped_tensors_are_put_back(tmp_path: Path) -> None:
    for files in (1, 2):
        (folder := tmp_path / str(files)).mkdir()
        source, artifact = checkpoints(folder, files)
        assert restore(source, artifact, ["bias", "norm", "draft", "other"]) == ["bias", "draft"]
        found = headers(artifact)  # which compares the files with the index
        assert (found["bias"].read() == BIAS).all()
        assert (found["draft"].read() == DRAFT).all()
        assert found["norm"].dtype == "BF16"  # scaled on purpose
        assert (artifact / ADDED).exists() == (files > 1)
        assert restore(source, artifact, ["bias", "norm", "draft", "other"]) == []


def test_what_the_plan_does_not_keep_is_left_alone(tmp_path: Path) -> None:
    source, artifact = checkpoints(tmp_path, 1)
    assert restore(source, artifact, ["other"]) == []
    assert "draft" not in headers(artifact)
