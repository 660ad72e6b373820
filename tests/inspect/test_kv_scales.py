"""Scales of the KV cache that were planned: there, announced, of the planned shape, and positive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.artifacts import artifact
from support.checkpoints import DENSE, checkpoint, tiny_job
from support.command import Cli

from qforge.inspect.inspect import inspect
from qforge.models import quantization_config
from qforge.plan import plan

WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": True}
INT4 = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}}}  # fmt: skip
CACHE = {"kv_cache_scheme": tiny_job(Path(), "kv=fp8_calibrated").kv.scheme}
ZERO = "scales of the KV cache: model.layers.0.self_attn.k_scale (0)"
UNSAID = "config.json: says nothing of the KV cache (kv_cache_scheme): vLLM would not read its scales"
SHAPE = "model.layers.0.self_attn.k_scale is BF16[2, 1, 1], planned BF16[1]"

Inspected = Callable[..., list[str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama; nobody looks at its tokenizer."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    return checkpoint(folder / "plain", {**DENSE, "vocab_size": 512}, folder, files=1)


@pytest.fixture
def faults(source: Path, tmp_path: Path) -> Inspected:
    """Of an INT4 checkpoint with scales that are `value` and of `shape`, and with what its config.json `says` beside INT4."""

    def of(value: float, shape: tuple[int, ...], says: dict[str, Any]) -> list[str]:
        def add(tensors: dict[str, np.ndarray]) -> None:
            scale = np.full(shape, value, np.float32).astype(ml_dtypes.bfloat16)
            tensors |= {f"model.layers.{n}.self_attn.{part}_scale": scale for n in range(2) for part in "kv"}

        made = artifact(source, tmp_path / "a", "int4", {**INT4, **says}, add)
        planned = plan.make(tiny_job(source, "method=rtn", "exempt=none", "kv=fp8_calibrated"), source)
        return inspect(made, planned, source).faults

    return of


@pytest.mark.parametrize(
    ("value", "shape", "says", "words"),
    [
        (0.02, (1,), CACHE, ""),
        (0.0, (1,), CACHE, ZERO),
        (float("nan"), (1,), CACHE, "model.layers.0.self_attn.k_scale (nan)"),
        (0.02, (1,), {}, UNSAID),
        (0.02, (2, 1, 1), CACHE, SHAPE),
        (0.02, (2,), CACHE, "scales of the KV cache: model.layers.0.self_attn.k_scale (2 of them, 1 announced)"),
    ],
)
def test_each_fault_is_found(
    faults: Inspected, value: float, shape: tuple[int, ...], says: dict[str, Any], words: str
) -> None:
    found = faults(value, shape, says)
    assert bool(found) == bool(words), found
    assert words in " ".join(found)


PER_HEAD = {"kv_cache_scheme": {**CACHE["kv_cache_scheme"], "strategy": "attn_head"}}


@pytest.mark.parametrize(
    ("layers", "heads", "says", "words"),
    [
        (2, 1, CACHE, ""),
        (1, 1, CACHE, "scales of the KV cache: model.layers.1.self_attn (none)"),
        (2, 2, PER_HEAD, ""),
        (2, 3, PER_HEAD, "model.layers.0.self_attn.k_scale (3 of them, 2 announced)"),
        (2, 1, PER_HEAD, "model.layers.0.self_attn.k_scale (1 of them, 2 announced)"),
    ],
)
def test_scales_of_somebody_elses_cache(
    source: Path, tmp_path: Path, layers: int, heads: int, says: dict[str, Any], words: str
) -> None:
    """They are in no plan; every layer must have as many as config.json announces."""

    def add(tensors: dict[str, np.ndarray]) -> None:
        scale = np.full((heads, 1, 1) if heads > 1 else (1,), 0.02, np.float32).astype(ml_dtypes.bfloat16)
        tensors |= {f"model.layers.{n}.self_attn.{part}_scale": scale for n in range(layers) for part in "kv"}

    made = artifact(source, tmp_path / "a", "int4", {**INT4, **says}, add)
    found = inspect(made, plan.make(tiny_job(source, "method=rtn", "exempt=none"), source), source).faults
    assert bool(found) == bool(words), found
    assert words in " ".join(found)


@pytest.mark.parametrize(
    ("overrides", "says", "words"),
    [
        (["hw=h200"], CACHE, "kv=of the artifact: the verdict is against bf16 with a bf16 cache"),
        (["hw=a100"], CACHE, "asks for an FP8 cache; hw=a100: Ampere has no FP8 (E4M3), and E5M2 takes no"),
        (["hw=a100", "kv.dtype=bfloat16"], CACHE, "KV cache"),
        (["hw=mi325x"], CACHE, "what is above 240 would be lost; use kv.dtype=bfloat16"),
        (["hw=l40s"], PER_HEAD, "FlashAttention 3 alone, which is Hopper's; use kv.dtype=bfloat16"),
        (["hw=h200"], {"kv_cache_scheme": {"num_bits": 4}}, "kv_cache_scheme: num_bits is 4, and vLLM reads 8 alone; mend its"),
    ],
)  # fmt: skip
def test_the_cache_that_somebody_elses_checkpoint_asks_for_is_planned(
    cli: Cli, source: Path, tmp_path: Path, overrides: list[str], says: dict[str, Any], words: str
) -> None:
    made = artifact(source, tmp_path / "a", "int4", {**INT4, **says})
    own = ("model=local", "model.name=x", f"model.path={source}", f"artifact={made}", "exempt=none", "method=rtn")
    said = " ".join(cli.inside(*own, "plan_only=true", *overrides).output.split())
    assert words in said, said
    assert "without scales" not in said


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"num_bits": 4}, "kv_cache_scheme: num_bits is 4, and vLLM reads 8 alone"),
        ({"type": "int"}, "type is 'int', and vLLM reads float alone"),
        ({"strategy": "token"}, "strategy is 'token', and vLLM reads tensor or attn_head alone"),
        ({"symmetric": False}, "symmetric is False, and vLLM reads True alone"),
    ],
)
def test_a_cache_that_vllm_does_not_read_is_refused(said: dict[str, Any], message: str) -> None:
    scheme = {"kv_cache_scheme": {**CACHE["kv_cache_scheme"], **said}}
    with pytest.raises(ValueError, match=message):
        quantization_config.kv_strategy({"quantization_config": {**INT4, **scheme}})
    modelopt = {"quant_method": "modelopt", "kv_cache_scheme": "NVFP4"}
    with pytest.raises(ValueError, match=r"kv_cache_scheme is 'NVFP4', FP8 \(8 bits, float\) was expected"):
        quantization_config.kv_strategy({"quantization_config": modelopt})


def test_a_checkpoint_whose_cache_alone_is_quantized_is_bf16() -> None:
    said = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}, **CACHE}}
    assert quantization_config.detect(said) == "bf16"
    del said["quantization_config"]["kv_cache_scheme"]
    with pytest.raises(ValueError, match="config_groups is missing or empty"):
        quantization_config.detect(json.loads(json.dumps(said)))
