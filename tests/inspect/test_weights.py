"""Packed words and scales that are not the source's: right names, shapes and dtypes, and another matrix."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.checkpoints import DENSE, checkpoint, quantized, tiny_job
from support.command import Finished
from support.jobs import job

from qforge.inspect import rows
from qforge.inspect.inspect import inspect
from qforge.inspect.weights import fault
from qforge.models.checkpoint import headers
from qforge.models.formats import FORMATS, MIXED
from qforge.plan import plan

UP, GATE = "model.layers.3.mlp.up_proj", "model.layers.3.mlp.gate_proj"
FAULT = "not the source's weights: "
CHANCE = rf"{UP} \((4|5)\d% of its larger weights have the source's sign\)"
Damage = Callable[[np.ndarray], np.ndarray]


def damaged(made: Path, folder: Path, tensor: str, damage: Damage | str) -> Path:
    """A copy of the artifact with other bytes in one tensor; by a name: those of that tensor."""
    artifact = Path(shutil.copytree(made, folder / "artifact"))
    tensors = headers(artifact)
    before = tensors[tensor].read()
    after = tensors[damage].read() if isinstance(damage, str) else damage(before)
    content = bytearray((weights := tensors[tensor].file).read_bytes())
    at = tensors[tensor].offset
    content[at : at + tensors[tensor].nbytes] = after.tobytes()
    weights.unlink()  # the store has the same file
    weights.write_bytes(content)
    return artifact


def faults(artifact: Path, model: Path, *overrides: str) -> str:
    return "\n".join(inspect(artifact, plan.make(job(*overrides), model), model).faults)


def test_every_layout_is_read() -> None:
    assert rows.READERS.keys() == FORMATS.keys() - {"bf16", MIXED}


FORMATS_OF_ROWS = {  # levels, and the largest that a scale is made for
    "int4": (np.arange(-8, 8, dtype=np.float32), 7.5),
    "nvfp4": (np.array([*(-x for x in reversed(rows.E2M1[1:])), *rows.E2M1], np.float32), 6),
    "int8": (np.arange(-128, 128, dtype=np.float32), 127.5),
}
Of = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
DAMAGES: dict[str, Of] = {  # of levels and scales
    "zero": lambda levels, scales: (0 * levels, scales),
    "signs": lambda levels, scales: (-levels, scales),
    "order of rows": lambda levels, scales: (np.roll(levels, 1, 0), scales),
    "order of nibbles": lambda levels, scales: (levels.reshape(len(levels), -1, 2)[:, :, ::-1].reshape(levels.shape), scales),
    "a row of zeros": lambda levels, scales: (np.where(np.arange(len(levels))[:, None] == 6, 0, levels), scales),
    "signs of a row": lambda levels, scales: (np.where(np.arange(len(levels))[:, None] == 6, -levels, levels), scales),
    "all but outliers": lambda levels, scales: (np.where(np.arange(levels.shape[1]) == 77, levels, 0), scales),
    "twice": lambda levels, scales: (levels, 2 * scales),
    "half": lambda levels, scales: (levels, scales / 2),
    "no scale": lambda levels, scales: (levels, 0 * scales),
}  # fmt: skip


@pytest.mark.parametrize("layout", FORMATS_OF_ROWS)
@pytest.mark.parametrize("group", [1024, 128, 32])
@pytest.mark.parametrize("size", [30, 100, 300, 3000])
def test_what_a_scale_cannot_hold_is_no_damage(
    layout: str, group: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row has a weight so many times the median; with one scale for a row nearly all others are zero then."""
    draw = np.random.default_rng(size)
    weights = draw.normal(size=(64, 1024)).astype(np.float32)
    weights[:, 77] = 0.67 * size * draw.choice([-1, 1], 64)
    weights[3], weights[9] = 0, 1e-4 * weights[9]
    levels, top = FORMATS_OF_ROWS[layout]
    groups = weights.reshape(64, -1, group)
    scale = np.abs(groups).max(-1) / top
    scale = np.where(scale == 0, 0.0078125, scale).astype(np.float32).repeat(group, 1)
    packed = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, weights / scale)]
    original: Any = SimpleNamespace(shape=weights.shape, read=lambda: weights)

    def said(codes: np.ndarray, scales: np.ndarray, only_signs: bool) -> str | None:
        found = rows.Rows(codes, scales, levels)
        monkeypatch.setitem(rows.READERS, layout, lambda parts, picked, columns: found)  # all 64 rows
        return fault(layout, {}, original, group, only_signs)

    assert said(packed, scale, only_signs=False) is said(packed, scale, only_signs=True) is None
    told = np.abs(weights) >= scale * np.abs(levels[levels != 0]).min()
    for name, damage in DAMAGES.items():
        if name != "all but outliers" or (told.sum(axis=1) > 256).any():  # else rounding leaves them alone
            assert said(*damage(packed, scale), only_signs=False), name


BY_ROW = ("rtn", "gptq", "awq")
OTHERS = ("mxfp4", "w8a8")
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def outlying(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which every other row in the block in the middle has a weight of 10 to 3000 times the median, one row is zero
    and one nearly. Not of o_proj: attention of random weights gives it nearly one vector, so GPTQ moves outliers there."""
    folder = checkpoint(tmp_path_factory.mktemp("tiny") / "source", {**DENSE, "num_hidden_layers": 3}, model, files=1)
    draw = np.random.default_rng(3)
    for name, stored in headers(folder).items():
        if name.startswith("model.layers.1.") and len(stored.shape) == 2 and "o_proj" not in name:
            weights, sizes = stored.read().astype(np.float32), (10, 30, 60, 100, 300, 1000, 3000)
            outlying, median = np.arange(0, len(weights), 2), np.median(np.abs(weights))
            columns = draw.integers(128, weights.shape[1], len(outlying))  # not those of rows of zeros before them
            weights[outlying, columns] = np.resize(sizes, len(outlying)) * median * draw.choice([-1, 1], len(outlying))
            weights[5], weights[7] = 0, 1e-4 * weights[7]
            content = bytearray(stored.file.read_bytes())
            content[stored.offset : stored.offset + stored.nbytes] = weights.astype(ml_dtypes.bfloat16).tobytes()
            stored.file.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def made(outlying: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    by_row = quantized("quant", outlying, tmp_path_factory.mktemp("rows"), *BY_ROW, overrides=["group_size=-1"])
    return by_row | quantized("quant", outlying, tmp_path_factory.mktemp("others"), *OTHERS)


def said_of(artifact: Path, source: Path, method: str) -> list[str]:
    overrides = ["group_size=-1"] if method in BY_ROW else []
    return inspect(artifact, plan.make(tiny_job(source, f"method={method}", *overrides), source), source).faults


@pytest.mark.parametrize("method", [*BY_ROW, *OTHERS])
def test_a_method_that_is_bad_for_outlying_weights_made_what_was_planned(
    outlying: Path, made: dict[str, Path], method: str, tmp_path: Path
) -> None:
    assert said_of(made[method], outlying, method) == []
    words = next(n for n in (f"{DOWN}.weight_packed", f"{DOWN}.weight") if n in headers(made[method]))
    damages: tuple[Damage, ...] = (np.zeros_like, lambda codes: codes[::-1], lambda codes: codes[:, ::-1])
    for number, damage in enumerate(damages):
        artifact = damaged(made[method], tmp_path / str(number), words, damage)
        assert any("not the source's weights" in fault for fault in said_of(artifact, outlying, method)), number


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (np.zeros_like, CHANCE),
        (lambda words: words[:, ::-1], CHANCE),
        (lambda words: words[::-1], CHANCE),
        (lambda words: words.byteswap(), CHANCE),
        (f"{GATE}.weight_packed", CHANCE),
        (lambda words: np.where(np.arange(len(words))[:, None] < 48, 0, words), rf"{UP} \(row 0, and 1 more of 64\)"),
    ],
)
def test_words_of_int4(rtn: Finished, model: Path, tmp_path: Path, damage: Damage | str, said: str) -> None:
    artifact = damaged(rtn.folder / "artifact", tmp_path, f"{UP}.weight_packed", damage)
    assert re.search(FAULT + said, faults(artifact, model, "method=rtn"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (np.zeros_like, rf"{UP} \(100% of its larger weights are zero\)"),
        (lambda codes: codes << 4 | codes >> 4, CHANCE),
        (f"{GATE}.weight", CHANCE),
    ],
)
def test_codes_of_nvfp4(nvfp4: Finished, model: Path, tmp_path: Path, damage: Damage | str, said: str) -> None:
    artifact = damaged(nvfp4.folder / "artifact", tmp_path, f"{UP}.weight", damage)
    assert re.search(FAULT + said, faults(artifact, model, "method=nvfp4", "exempt=boundary"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda scales: scales * 2, r"row 0 is 2 times the source's, and 63 more of 64 are off"),
        (lambda scales: scales / 2, r"row 0 is 0.5 times the source's, and 63 more of 64 are off"),
        (lambda scales: np.where(np.arange(scales.size).reshape(scales.shape) == 4, 3 * scales, scales),
         r"row 0, columns from 256: (2\.[5-9]|3\.\d*|3) times the source's"),
    ],
)  # fmt: skip
def test_scales_of_int4(rtn: Finished, model: Path, tmp_path: Path, damage: Damage, said: str) -> None:
    """Within the bounds of what the largest weight may be, and wrong by the rows."""
    made, tensor = rtn.folder / "artifact", f"{UP}.weight_scale"
    artifact = damaged(made, tmp_path, tensor, lambda scales: damage(scales).astype(scales.dtype))
    assert re.search(rf"{FAULT}{UP} \({said}\)", faults(artifact, model, "method=rtn"))
