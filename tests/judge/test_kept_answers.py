"""The verdict on answers that were given: of one model against itself, and of a damaged one against it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from support.command import ROOT

KEPT = sorted((ROOT / "results" / "chat").glob("seeds-*.json"))


@pytest.fixture(scope="module")
def chat() -> ModuleType:
    """benchmarks/chat.py."""
    spec = importlib.util.spec_from_file_location("chat", ROOT / "benchmarks" / "chat.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_chance_rejects_no_model_beside_itself_and_half_the_right_answers_are_missed(
    chat: ModuleType, file: Path
) -> None:
    kept = json.loads(file.read_text())
    assert not any(chat.rejected(*pair) for pair in chat.pairs(kept, "bf16"))
    if "damaged" in kept:
        assert all(chat.rejected(*pair) for pair in chat.pairs(kept, "damaged"))
    else:
        assert all(chat.rejected(*pair) for pair in chat.pairs(kept, "bf16", halved=True))


def test_runs_of_many_seeds_share_no_answer(chat: ModuleType) -> None:
    """Of 63 seeds, each right where its number has the bit of the question."""
    right = ["".join(str(seed >> item & 1) for item in range(6)) for seed in range(63)]
    asked = {"task": {"right": right, "broken": ["000000"] * 63}}
    kept = {"bf16": asked, "damaged": {"task": {"right": ["000000"] * 63, "broken": ["111111"] * 63}}}
    pairs = [[side["evaluate"]["tasks"]["task"] for side in pair] for pair in chat.pairs(kept, "bf16")]
    assert len(pairs) == 21
    assert [own for own, _ in pairs[1:]] == [other for _, other in pairs[:-1]], "each against the next one"
    assert pairs[0][0]["per_sample"]["right"] == [1 / 3, 1 / 3, 0, 0, 0, 0]
    assert pairs[-1][1] == pairs[0][0]
    damaged = [[side["evaluate"]["tasks"]["task"] for side in pair] for pair in chat.pairs(kept, "damaged")]
    assert [other for _, other in damaged] == [own for own, _ in pairs], "the same seeds"
    assert damaged[0][0] == {"judged": "right", "per_sample": {"right": [0] * 6}, "asked": {"broken": [1] * 6}}
    said = "\n".join(chat.chance(kept))
    assert "as many as 63 seeds make" in said
    assert "| bf16 against damaged | 21 of 21 |" in said


def test_the_page_shows_what_is_kept(chat: ModuleType) -> None:
    assert KEPT
    assert chat.page() == (ROOT / "results" / "chat.md").read_text(), "run python benchmarks/chat.py"
