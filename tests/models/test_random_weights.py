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
        if values.ndim == 1:
            assert (values == 1).all()
        else:
            assert 0.015 < values.std() < 0.025, name
    experts = [made[f"model.layers.0.mlp.experts.{n}.up_proj.weight"].read() for n in range(2)]
    assert (experts[0] != experts[1]).any()


def test_deviations_of_their_own_by_the_beginning_of_a_name(tmp_path: Path) -> None:
    random_weights.write(MOE, tmp_path, {"model.layers.1.": 0.5, "model.layers.": 0.1})
    made = {name: tensor.read().astype(np.float32) for name, tensor in headers(tmp_path).items()}
    deviations = {name: float(values.std()) for name, values in made.items() if values.ndim > 1}
    for name, found in deviations.items():
        expected = 0.5 if ".layers.1." in name else 0.1 if ".layers." in name else 0.02
        assert found == pytest.approx(expected, rel=0.25), name
    assert all((values == 1).all() for values in made.values() if values.ndim == 1)
