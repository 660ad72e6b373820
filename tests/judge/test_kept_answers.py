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
    draws = range(chat.PAIRS)
    assert not any(chat.rejected(*chat.sides(kept, "bf16", draw)) for draw in draws)
    assert all(chat.rejected(*chat.sides(kept, "bf16", draw, halved=True)) for draw in draws)


def test_the_page_shows_what_is_kept(chat: ModuleType) -> None:
    assert KEPT
    assert chat.page() == (ROOT / "results" / "chat.md").read_text(), "run python benchmarks/chat.py"
