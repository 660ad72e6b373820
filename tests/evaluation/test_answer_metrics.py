"""Answers and right ones in other scripts, with other punctuation, and of numbers and letters alone."""

from __future__ import annotations

import json

import pytest
from support.checkpoints import in_quant

CASES = {
    "a sentence in Chinese": ("中国的首都是北京。", "北京", {"contains": 1, "exact_match": 0}),
    "another city in Chinese": ("中国的首都是南京。", "北京", {"contains": 0}),
    "Korean, with a particle joined": ("수도는 서울입니다.", "서울", {"contains": 1}),
    "quotes and dashes of printers": ("It is “Paris”—the capital.", "Paris", {"contains": 1}),
    "accents that are joined and not": ("Cafe\u0301", "Café", {"contains": 1, "exact_match": 1, "f1": 1}),
    "wide and small digits": ("\uff11\uff12 H₂O", "12 H2O", {"exact_match": 1}),
    "a letter of a choice": ("The answer is A.", "A", {"contains": 1, "exact_match": 0}),
    "another letter": ("It is a dog: B.", "A", {"contains": 0}),
    "one letter beside another": ("B", "A", {"contains": 0, "exact_match": 0}),
    "a negative number": ("It is -5.", "5", {"contains": 0}),
    "the same negative number": ("It is \u22125 degrees.", "-5", {"contains": 1}),
    "a decimal point": ("31.4", "3.14", {"contains": 0, "exact_match": 0}),
    "thousands": ("1,000 people", "1000", {"contains": 1}),
    "a range": ("3-5 days", "3-5", {"contains": 1}),
}


@pytest.fixture(scope="module")
def scores() -> list[dict[str, float]]:
    """Of each case, where transformers is."""
    script = (
        "import json, sys; from qforge.evaluation.answer_metrics import process_results as score\n"
        "print(json.dumps([score({'answer': [right]}, [answer]) for answer, right in json.loads(sys.argv[1])]))"
    )
    asked = json.dumps([case[:2] for case in CASES.values()])
    found: list[dict[str, float]] = json.loads(in_quant("-c", script, asked).stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_looks_alike_counts_as_alike(scores: list[dict[str, float]], name: str) -> None:
    found = scores[list(CASES).index(name)]
    assert {metric: found[metric] for metric in CASES[name][2]} == CASES[name][2]


def test_f1_counts_characters_where_words_have_no_spaces(scores: list[dict[str, float]]) -> None:
    assert scores[0]["f1"] == pytest.approx(2 * 1 * (2 / 8) / (1 + 2 / 8))
