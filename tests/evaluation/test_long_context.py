"""Long prompts: as long as asked, the same each time, with what is wanted where it should be."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from support.command import ROOT
from support.jobs import job
from support.letters import Letters

from qforge.config.evaluation import FAMILIES
from qforge.evaluation import counted_words, documents, long_context, needles, questions
from qforge.evaluation.scorers import Scored


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_needle_lies_where_it_should_in_a_prompt_as_long_as_asked(depth: float) -> None:
    sentences = [f"This is sentence {i}." for i in range(30)]
    prompt = needles.prompt("single", sentences, random.Random("seed"), depth)
    ids, (value,) = prompt.ids(Letters([1]), 2000), prompt.wanted
    text = "".join(map(chr, ids[1:]))
    assert ids[0] == 1
    assert 1900 < len(ids) <= 2000
    assert text.count(value) == 1
    head, tail = len(needles.INTRODUCTION), len(needles.QUESTION)
    assert (text.index("One of the special") - head) / (len(text) - head - tail) == pytest.approx(depth, abs=0.06)
    assert needles.prompt("single", sentences, random.Random("seed"), depth).ids(Letters([1]), 2000) == ids
    assert needles.prompt("single", sentences, random.Random("other"), depth).wanted != prompt.wanted


@pytest.mark.parametrize("family", [name for name in needles.KINDS if name != needles.SINGLE])
@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_every_needle_of_a_family_is_in_the_prompt(family: str, depth: float) -> None:
    hidden = needles.KINDS[family](random.Random("seed"))
    prompt = needles.prompt(family, [f"This is sentence {i}." for i in range(40)], random.Random("seed"), depth)
    ids = prompt.ids(Letters([1]), 3000)
    text = "".join(map(chr, ids[1:]))
    assert 2900 < len(ids) <= 3000
    places = [text.index(needle) for needle in hidden.needles]
    assert places == sorted(places) or not hidden.in_order
    assert prompt.wanted == hidden.wanted
    assert prompt.found(" and ".join(hidden.wanted).lower()) == 1
    assert prompt.found(hidden.wanted[0]) == 1 / len(hidden.wanted)
    assert prompt.found("") == 0


@pytest.mark.parametrize(("length", "often", "seldom"), [(3000, 6, 1), (30_000, 30, 3)])
def test_common_words_are_those_that_stand_most_often_in_the_list(length: int, often: int, seldom: int) -> None:
    prompt = counted_words.common(random.Random("seed"), length)
    ids = prompt.ids(Letters([1]), length)
    text = "".join(map(chr, ids[1:]))
    numbers, words = zip(*re.findall(r"(\d+)\. (\w+)", text), strict=True)
    assert 0.97 * length < len(ids) <= length
    assert numbers == tuple(str(n) for n in range(1, len(words) + 1))
    counts = Counter(words).most_common()
    assert {word for word, _ in counts[:10]} == set(prompt.wanted)
    assert {count for _, count in counts[:10]} == {often}
    assert {count for _, count in counts[10:]} == {seldom}
    assert prompt.found(", ".join(prompt.wanted[:4]).upper()) == 0.4
    assert counted_words.common(random.Random("seed"), length).ids(Letters([1]), length) == ids


def test_frequent_words_are_as_frequent_as_the_zeta_distribution_has_them() -> None:
    prompt = counted_words.frequent(random.Random("seed"), 20_000)
    ids = prompt.ids(Letters([1]), 20_000)
    (coded,) = re.findall(r"words\. (.*)\nQuestion", "".join(map(chr, ids[1:])))
    listed = coded.split()
    counts = Counter(listed).most_common()
    assert 19_900 < len(ids) <= 20_000
    assert counts[0][0] == "..."
    assert [word for word, _ in counts[1:4]] == prompt.wanted
    assert all(re.fullmatch("[a-z]{6}", word) for word, _ in counts[1:])
    for place, (_, count) in enumerate(counts[:5], 1):
        assert count / len(listed) == pytest.approx(6 / math.pi**2 / place**2, rel=0.05)
    assert prompt.found(f"1. {prompt.wanted[2]}") == pytest.approx(1 / 3)
    assert counted_words.frequent(random.Random("seed"), 20_000).ids(Letters([1]), 20_000) == ids


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_one_document_of_many_answers_the_question(depth: float) -> None:
    prompt = documents.prompt(random.Random("seed"), depth)
    ids = prompt.ids(Letters([1]), 12_000)
    text = "".join(map(chr, ids[1:]))
    given = re.findall(r"^Document \d+:\n(.*)$", text, re.MULTILINE)
    assert len(given) > 5
    assert len(ids) <= 12_000
    (question,) = re.findall(r"Question: (.*\?) Answer:$", text)
    gold = documents.answering(given, question, prompt.wanted)
    assert given.index(gold) == round(depth * (len(given) - 1))
    assert given.count(gold) == 1
    assert prompt.found(f"It is {prompt.wanted[-1]}.") == 1
    assert prompt.found("I do not know") == 0


def test_the_document_that_answers_is_the_one_that_was_asked_about() -> None:
    holds = {
        "Who broke Rifenburg's records in 1980?": "broken by Anthony Carter in 1980",
        "At what time did the fighting at the pass begin?": "Fighting began at the pass at 02 : 30",
        "In which year was the new dam near Tampa built?": "a new dam was eventually built in 1944",
    }
    for asked in questions.read(ROOT / "data/tasks/reading.jsonl"):
        text, _, question = asked.question.partition(documents.ASKS)
        gold = documents.answering(text.splitlines(), question, asked.answers)
        assert len(gold) > documents.SHORTEST
        assert holds.get(question, "") in gold


def test_a_length_without_room_for_the_question_is_refused() -> None:
    prompt = counted_words.common(random.Random("seed"), 200)
    with pytest.raises(
        ValueError, match=r"lengths: 200 tokens have no room for a question of \d+; leave that length out"
    ):
        prompt.ids(Letters([1]), 200)


def test_families_are_tables_of_their_own() -> None:
    class Finds:
        parallel = 1

        def complete(self, ids: list[int], tokens: int) -> str:
            """Every number and every word; where several numbers are wanted only the first."""
            text = "".join(map(chr, ids[1:]))
            numbers = re.findall(r"is: (\d+)", text)
            return str(numbers[0]) if "What are all" in text else text

    settings = job("eval=full", f"eval.long_context.families=[{','.join(FAMILIES)}]").eval.long_context
    settings.lengths, settings.depths, settings.per_cell, settings.texts = [4000], [0.0, 0.5], 2, {}
    asked = long_context.measure(settings, Finds(), Letters([1]))["needles"]  # type: ignore[arg-type]
    found = asked["found"]
    names = ["noise", *(f"noise, {name}" for name in ("keys", "values", "variables", "turns"))]
    names += ["common words", "frequent words", "question answering"]
    assert found == {name: [[0.25, 0.25]] if name == "noise, values" else [[1, 1]] for name in names}
    assert asked["scores"]["noise"] == [[[1, 1], [1, 1]]], "of each prompt of each length and depth"


def test_sentences_keep_the_text() -> None:
    text = "One is here. Two\nis there!  Is three? It is 3.14 long."
    assert long_context.sentences(text) == ["One is here.", "Two is there!", "Is three?", "It is 3.14 long."]


def test_a_text_shorter_than_the_longest_prompt_is_scored_as_far_as_it_goes() -> None:
    class Even:
        """A scorer to whom every token is as likely as every other of 64."""

        def score(self, window: list[int], top_k: int = 0) -> Scored:
            return Scored([math.log(64)] * (len(window) - 1))

    settings = replace(job("eval=full").eval.long_context, lengths=[1024, 4096])
    found = long_context._positions(settings, Even(), Letters([1]), "text", "x" * 2999)
    assert (found["length"], found["tokens"]) == (3000, 2999)
    assert found["perplexity"] == pytest.approx(64)
