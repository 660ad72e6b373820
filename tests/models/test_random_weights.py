"""Random weights: a checkpoint like any other, of the shapes that its config.json says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import MOE

from qforge.json_files import read_json
from qforge.models import architectures, random_weights, shards
from qforge.models.checkpoint import Tensor, headers


def test_every_tensor_of_the_architecture_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "FILE", 10_000_000)
    config = {**MOE, "tie_word_embeddings": False, "vocab_size": 20_000}  # its head is larger than a file
    random_weights.write(config, tmp_path)
    made = headers(tmp_path)  # refuses an index that does not list them all
    assert {name: Tensor(t.dtype, t.shape) for name, t in made.items()} == architectures.tensors(config)
    assert len(set(read_json(tmp_path / "model.safetensors.index.json")["weight_map"].values())) > 2
    for name, tensor in made.items():
        values = tensor.read().astype(np.float32)
        if name.endswith("norm.weight"):
            assert (values == 1).all()
        else:
            assert 0.015 < values.std() < 0.025, name
    experts = [made[f"model.layers.0.mlp.experts.{n}.up_proj.weight"].read() for n in range(2)]
    assert (experts[0] != experts[1]).any()
