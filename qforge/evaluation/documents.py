"""Questions whose answer one document of many holds: RULER's question answering (Hsieh et al. 2024, arXiv 2404.06654).

RULER takes SQuAD and HotpotQA from the web. Here the questions are those of data/tasks/reading.jsonl, and a document is a
paragraph of the texts that they ask about. Of those with an answer the one that shares most words with the question lies at
the depth asked for, among the others in a drawn order; where they run out they begin anew. One of the answers must stand in
what the model says.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from qforge.config.evaluation import FAMILIES
from qforge.config.places import given_path
from qforge.evaluation import questions
from qforge.evaluation.long_prompt import LongPrompt

SHORTEST = 150  # characters of a paragraph; below it is a heading
TOLD = "Answer the question based on the given documents. Only give me the answer and do not output any other words."
GIVEN = "The following are given documents."
ASKS = "Answer from the text above, in a few words: "  # between the text and the question in the file


def prompt(drawn: random.Random, depth: float) -> LongPrompt:
    """One of the questions; a piece is a document that does not answer it."""
    asked = questions.read(given_path(FAMILIES["question_answering"].file))
    paragraphs = dict.fromkeys(paragraph for one in asked for paragraph in _paragraphs(one.question.partition(ASKS)[0]))
    chosen = drawn.choice(asked)
    source, _, question = chosen.question.partition(ASKS)
    gold = answering(_paragraphs(source), question, chosen.answers)
    others = [paragraph for paragraph in paragraphs if paragraph != gold]
    drawn.shuffle(others)

    def text(count: int) -> str:
        documents = [others[i % len(others)] for i in range(count)]
        documents.insert(round(depth * count), gold)
        numbered = [f"Document {i}:\n{document}" for i, document in enumerate(documents, 1)]
        return "\n\n".join([TOLD, GIVEN, *numbered, TOLD, f"Question: {question} Answer:"])

    return LongPrompt(text, chosen.answers, FAMILIES["question_answering"].answer, one_is_enough=True)


def answering(paragraphs: Iterable[str], question: str, answers: list[str]) -> str:
    """Of the paragraphs that hold an answer the one that shares most words with the question."""
    holding = [one for one in paragraphs if any(answer.lower() in one.lower() for answer in answers)]
    return max(holding, key=lambda one: len(_words(one) & _words(question)))


def _paragraphs(text: str) -> list[str]:
    return [line for line in text.splitlines() if len(line) >= SHORTEST]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
