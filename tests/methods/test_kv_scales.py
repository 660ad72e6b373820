"""Scales of the KV cache on a small model: in a method's own pass or in one beside it, the same keys give the same scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import DENSE, checkpoint
from support.command import Cli

from qforge.models.checkpoint import headers


def test_scales_are_of_the_same_keys_whoever_measures_them(cli: Cli, model: Path, tmp_path: Path) -> None:
    source, store = checkpoint(tmp_path / "source", DENSE, model, files=2), tmp_path / "store"
    given = (
        "model=local", "model.name=x", f"model.path={source}", f"store={store}", "kv=fp8_calibrated", "exempt=none",
        "calib.sequences=4", "calib.length=64", "stages=[quantize,inspect]",
    )  # fmt: skip
    found = {}
    for method in ("bf16", "rtn", "gptq", "nvfp4"):
        done = cli.succeed_inside(*given, f"method={method}")
        assert done.json("inspect")["faults"] == [], method
        assert done.json("inspect")["checked"]["scales of the KV cache"] == 4
        tensors = headers(done.folder / "artifact")
        found[method] = {
            n: float(t.read().reshape(-1)[0]) for n, t in tensors.items() if n.endswith(("k_scale", "v_scale"))
        }
    assert len(list((store / "kv_scales").glob("*/made.json"))) == 1, "bf16 and rtn share a pass"
    assert found["bf16"] == found["rtn"]
    first = [f"model.layers.0.self_attn.{part}_scale" for part in "kv"]  # what comes before it, nobody has quantized
    assert [found["gptq"][name] for name in first] == [found["bf16"][name] for name in first]
    for part in "kv":  # ModelOpt keeps them in 32 bits
        assert found["nvfp4"][f"model.layers.0.self_attn.{part}_proj.{part}_scale"] == pytest.approx(
            found["bf16"][f"model.layers.0.self_attn.{part}_scale"], rel=2**-7
        )
    assert all(0 < value < np.inf for scales in found.values() for value in scales.values())
