"""Experts in one tensor, however they lie in it, come apart into the same matrices."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from support.checkpoints import in_quant

from qforge.models.checkpoint import Tensor
from qforge.models.shards import Shard

EXPERTS, ROWS, COLUMNS = 3, 4, 6
SCRIPT = """if True:
    import json, sys
    from pathlib import Path
    import torch
    from qforge.methods import stacks
    from qforge.models.checkpoint import headers
    from qforge.models.modules import Module
    tensors = headers(Path(sys.argv[1]))
    for name, tensor in tensors.items():
        if name.endswith("_bias"):
            continue
        facts = {"transposed": "turned" in name, "alternate": "alternate" in name, "leaves": ("gate_proj", "up_proj")}
        module = Module(f"m.experts.{name}", "expert", 8, 6, stack=3, tensor=name, **facts)
        parts = stacks.parts(module)
        assert [p.name for p in parts] == [n for n, _, _ in module.matrices], parts
        rows = [torch.empty(4, 6, dtype=torch.bfloat16) for _ in parts]
        for part, values in zip(parts, rows):
            stacks.load(values, part, tensor)
        biases = [b.tolist() for b in stacks.biases(module, tensors[stacks.bias(module)])]
        print(json.dumps([name, [r.tolist() for r in rows], biases]))
"""


def test_every_way_to_stack_gives_the_same_matrices(tmp_path: Path) -> None:
    experts = np.random.default_rng(0).normal(0, 1, (EXPERTS, 2, ROWS, COLUMNS)).astype(ml_dtypes.bfloat16)
    biases = experts[..., 0].astype(np.float32)  # [experts, gate and up, rows]
    stacked = {"halves": experts.reshape(EXPERTS, 2 * ROWS, COLUMNS)}
    stacked["alternate"] = experts.swapaxes(1, 2).reshape(EXPERTS, 2 * ROWS, COLUMNS)
    stacked |= {f"{name}_turned": values.swapaxes(1, 2) for name, values in list(stacked.items())}
    stacked["wide"] = stacked["halves"].astype(np.float32)
    every: dict[str, np.ndarray] = dict(stacked)
    for name in stacked:
        flat = biases.swapaxes(1, 2) if "alternate" in name else biases
        every[f"{name}_bias"] = flat.reshape(EXPERTS, 2 * ROWS)
    dtypes = {np.dtype(np.float32): "F32", np.dtype(ml_dtypes.bfloat16): "BF16"}
    shard = Shard(tmp_path / "model.safetensors", {n: Tensor(dtypes[v.dtype], v.shape) for n, v in every.items()})
    shard.open()
    for name, values in every.items():
        shard.put(name, memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8)))
    shard.close()
    lines = in_quant("-c", SCRIPT, tmp_path).stdout.splitlines()
    found = {name: (matrices, vectors) for name, matrices, vectors in map(json.loads, lines)}
    assert found.keys() == stacked.keys()
    for name, (matrices, vectors) in found.items():
        assert (np.array(matrices) == experts.reshape(-1, ROWS, COLUMNS).astype(np.float64)).all(), name
        assert (np.array(vectors) == biases.reshape(-1, ROWS).astype(np.float64)).all(), name
