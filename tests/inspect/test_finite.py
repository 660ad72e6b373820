"""NaN and infinity are found by their bits, in every dtype, and in a source before anything is quantized."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from support.checkpoints import DENSE, checkpoint
from support.command import Cli
from support.jobs import job

from qforge.inspect import finite
from qforge.json_files import read_json
from qforge.models.checkpoint import Stored, headers
from qforge.pipeline import fetch
from qforge.pipeline.run import Run

DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_say_what_numpy_says(tmp_path: Path, dtype: str) -> None:
    size = np.dtype(DTYPES[dtype]).itemsize
    every = np.arange(1 << (8 * min(size, 2)), dtype=f"<u{min(size, 2)}")
    bits = every.astype(f"<u{size}") << (8 * (size - min(size, 2)))  # all signs and exponents
    for number, value in enumerate(bits[:: max(1, len(bits) // 2048)]):
        file = tmp_path / "value"
        file.write_bytes(np.array([0, value], bits.dtype).tobytes())
        says = bool(np.isfinite(np.array([value], bits.dtype).view(DTYPES[dtype]).astype(np.float64)).all())
        assert finite.finite(Stored(dtype, (2,), file, 0)) == says, (number, hex(value))


def test_integers_and_nothing_are_finite(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff" * 8)
    assert finite.finite(Stored("I32", (2,), tmp_path / "file", 0))
    assert finite.finite(Stored("BF16", (0, 4), tmp_path / "file", 8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small model in two files."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    return checkpoint(tmp_path / "model", DENSE, tmp_path, files=2)


def test_a_sound_source_is_read_once(source: Path, tmp_path: Path) -> None:
    run = Run(
        job("model=local", "model.name=tiny", f"model.path={source}", f"store={tmp_path / 'store'}"), tmp_path / "run"
    )
    fetch.refuse_not_finite(run, source)
    (looked,) = (tmp_path / "store" / "source").glob("*/result.json")
    assert read_json(looked)["tensors"] == 21
    made = looked.stat().st_mtime_ns
    fetch.refuse_not_finite(run, source)
    assert looked.stat().st_mtime_ns == made
    assert list(run.time.spent) == ["source"]


def test_nan_in_the_source_is_refused_before_the_work(cli: Cli, source: Path) -> None:
    local = ("model=local", "model.name=tiny", f"model.path={source}")
    tensor = headers(source)["model.layers.1.mlp.down_proj.weight"]
    with tensor.file.open("r+b") as stream:
        stream.seek(tensor.offset + 2 * 1000)
        stream.write(b"\xc0\x7f")
    done = cli(*local, "method=rtn", "exempt=none", "stages=[quantize,inspect]")
    assert done.code == 2, done.output
    said = " ".join(done.output.split())
    assert "model=tiny: model.layers.1.mlp.down_proj.weight in" in said
    assert "holds NaN or infinity (1 of 21 tensors do), so every quantized form would be garbage" in said
    assert not (done.folder / "quantize.log").exists()
