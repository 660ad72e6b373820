"""Scoring, progress: the small parts, on their own."""

from __future__ import annotations

import math

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from qforge.comparisons import main_metric
from qforge.perplexity import perplexity, windows
from qforge.progress import fraction
from qforge.runtimes.vllm import not_language
from qforge.stages.evaluate import _task_result

# -- scoring


class Letters:
    """A tokenizer of one token per character, with a BOS if asked for."""

    def __init__(self, bos: list[int]) -> None:
        self.bos = bos

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": (self.bos if add_special_tokens else []) + [ord(c) for c in text]}


def test_windows_follow_one_another_and_begin_with_bos_where_the_tokenizer_does() -> None:
    assert windows("abcdef", Letters([]), 3, 2) == [[97, 98, 99], [100, 101, 102]]
    assert windows("abcdef", Letters([1]), 3, 3) == [[1, 97, 98], [1, 99, 100], [1, 101, 102]]
    with pytest.raises(ValueError, match="ask for at most 2 windows"):
        windows("abcdef", Letters([]), 3, 3)


@given(st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=8), min_size=1, max_size=8))
def test_perplexity_is_the_exponential_of_the_mean_loss(losses: list[list[float]]) -> None:
    flat = [x for window in losses for x in window]
    assert perplexity(losses) == pytest.approx(math.exp(sum(flat) / len(flat)))


def test_a_task_with_filters_keeps_them_in_the_names_of_its_metrics() -> None:
    """As lm-eval 0.4.13 gives gsm8k: every sample once per filter."""
    samples = [
        {"doc_id": doc, "filter": name, "prompt_hash": f"p{doc}", "metrics": ["exact_match"], "exact_match": right}
        for doc in (1, 0)
        for name, right in (("strict-match", 0.0), ("flexible-extract", 1.0))
    ]
    metrics = {"alias": "gsm8k", "exact_match,strict-match": 0.0, "exact_match_stderr,strict-match": "N/A",
               "exact_match,flexible-extract": 1.0}  # fmt: skip
    found = _task_result(samples, metrics)
    assert found["samples"] == 2
    assert found["metrics"] == {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0}
    assert found["per_sample"]["exact_match,flexible-extract"] == [1.0, 1.0]
    assert main_metric(found) == "exact_match,strict-match"


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
