"""What a run may write: counted by where the model comes from. The peaks were watched on real runs (the store every 0.1 s)."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from support.jobs import job

from qforge.pipeline import preflight
from qforge.pipeline.run import Run
from qforge.plan import plan

Usage = namedtuple("Usage", "total used free")
RANDOM = ("model.random=true", "model.gguf=null")
HUB = ("model.hub=someone/smollm2", "model.gguf=null")
SHAPES = "model.architecture=data/architectures/smollm2_135m.json"


def peak(*overrides: str, known: bool = False) -> tuple[int, int, int]:
    """The estimate, the bytes of the bf16 checkpoint and those of the quantized one."""
    made = job("method=rtn", SHAPES, *overrides)
    planned = plan.make(made, None)
    return preflight.peak_bytes(made, planned, 0 if known else planned.bf16_bytes), planned.bf16_bytes, planned.bytes


@pytest.mark.parametrize("source", [RANDOM, HUB])
def test_random_weights_and_the_hubs_files_are_written_once(source: tuple[str, ...]) -> None:
    written, bf16, packed = peak(*source)
    assert written == bf16 + packed


def test_a_gguf_file_lies_there_twice_while_it_is_converted() -> None:
    written, bf16, packed = peak()
    assert written == 2 * bf16 > bf16 + packed
    assert written > 465_811_029, "the peak of the demo model's run"
    assert peak(*RANDOM)[0] * preflight.ROOM > 384_562_973 > bf16, "and of the same shapes in random weights"


def test_what_is_here_already_is_not_written_again() -> None:
    assert peak(known=True)[0] == peak()[2]
    assert peak("method=bf16", "exempt=none", known=True)[0] == 0
    assert peak("artifact=/some/checkpoint", known=True)[0] == 0
    assert peak("stages=[serve]", known=True)[0] == 0


def test_weights_unpacked_to_bf16_count_beside_the_packed_ones() -> None:
    written, bf16, packed = peak("method=nvfp4", "group_size=64", "unservable=measure", known=True)
    assert written == packed + bf16


def test_a_mixture_of_61_gb_finds_room_on_136_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job("model=qwen3_30b_a3b_random", "method=rtn", "hw=h100", "stages=[quantize]", f"store={tmp_path}")
    planned, run = plan.make(made, None), Run(made, tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(136e9)))
    preflight.refuse_small_disk(run, planned)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(79e9)))
    message = f"store={tmp_path}: the disk has 79.00 GB free and this run may write 9"
    with pytest.raises(ValueError, match=re.escape(message)):
        preflight.refuse_small_disk(run, planned)
