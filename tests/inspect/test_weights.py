"""Packed words and scales that are not the source's: right names, shapes and dtypes, and another matrix."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
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


def damaged(run: Finished, folder: Path, tensor: str, damage: Damage | str) -> Path:
    """A copy of the run's artifact with other bytes in one tensor; by a name: those of that tensor."""
    artifact = Path(shutil.copytree(run.folder / "artifact", folder / "artifact"))
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


def test_a_row_with_an_outlying_channel_may_round_to_zero_in_large_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)
    weights[7, ::128] = 18  # of one in 128: half of the row's larger weights are zero then
    groups = weights.reshape(64, -1, 128)
    scale = np.abs(groups).max(-1, keepdims=True) / 7.5
    values = (np.round(groups / scale) * scale).reshape(weights.shape)
    monkeypatch.setitem(rows.READERS, "int4", lambda parts, picked, columns: values[picked])
    original: Any = SimpleNamespace(shape=weights.shape, read=lambda: weights)
    assert fault("int4", {}, original, 128, only_signs=False) is None
    values[7] = 0
    assert fault("int4", {}, original, 128, only_signs=False) == "row 7, and 0 more of 64"


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
    artifact = damaged(rtn, tmp_path, f"{UP}.weight_packed", damage)
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
    artifact = damaged(nvfp4, tmp_path, f"{UP}.weight", damage)
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
    artifact = damaged(rtn, tmp_path, f"{UP}.weight_scale", lambda scales: damage(scales).astype(scales.dtype))
    assert re.search(rf"{FAULT}{UP} \({said}\)", faults(artifact, model, "method=rtn"))
