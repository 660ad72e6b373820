"""Scoring, progress: the small parts, on their own."""

from __future__ import annotations

import pytest
from conftest import ROOT

from qforge.progress import fraction
from qforge.runtimes import vllm
from qforge.runtimes.vllm import not_language

# -- progress


@pytest.mark.parametrize(
    ("line", "done", "what"),
    [
        ("(3/31): Calibrating:  50%|█████     | 32/64 [00:01<00:01, 30.1it/s]", (2 + 0.25) / 31, "calibrating 3/31"),
        ("(31/31): Propagating: 100%|██████████| 64/64 [00:01<00:00]", 1.0, "propagating 31/31"),
        ("perplexity wikitext:  25%|██▌       | 5/20 [00:10<00:30,  2.0s/it]", 0.25, "perplexity wikitext"),
        ("Requesting API:   3%|▎  | 12/400 [00:01<00:30]", 0.03, "requesting api"),
    ],
)  # fmt: skip
def test_progress_is_read_from_the_libraries_bars(line: str, done: float, what: str) -> None:
    found = fraction(line)
    assert found
    assert found[0] == pytest.approx(done)
    assert found[1] == what


def test_other_output_is_no_progress() -> None:
    assert fraction("INFO 11-21 GPU KV cache usage: 3.1%") is None
    assert fraction("") is None


# -- the server's words


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The capital of France is Paris.", None),
        ("Paris", None),
        ("", "empty"),
        ("!!!!####@@@@$$$$%%%%", "mostly symbols"),
        ("the the the the the the the the the the the the the", "the same words over and over"),
    ],
)
def test_the_canary_knows_language_from_garbage(text: str, fault: str | None) -> None:
    assert not_language(text) == fault


def test_no_file_is_longer_than_it_should_be() -> None:
    for file in (ROOT / "qforge").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 250, file


def test_the_kernel_of_a_modelopt_checkpoint_is_read_from_its_warning() -> None:
    """vLLM 0.26 on an H200 names it nowhere else."""
    line = (
        "WARNING 11-22 00:37:57 [marlin.py:34] Your GPU does not have native support for FP4 computation but FP4 "
        "quantization is being used. Weight-only FP4 compression will be used leveraging the Marlin kernel. This may "
        "degrade performance for compute-heavy workloads."
    )
    assert vllm._kernel(line) == "Marlin kernel for FP4 weights"
