"""Chat, graded by another model: MT-bench's questions, answered here, judged behind any OpenAI-compatible API.

The questions have two turns. Each answer is rated by itself from 1 to 10, and of a model beside bf16 each is compared with
bf16's, with MT-bench's own prompts (Zheng et al. 2023; FastChat's single-v1, pair-v2 and their multi-turn forms, without
reference answers). Greedy on both sides. Each pair is shown in both orders: a model wins or loses where both say so, and else
it is a tie. `agreement` is the share of pairs on which the judge agrees with itself, of those where it chose in both orders. A
judge that gives no rating or choice is counted, not guessed at. Ratings of different judges cannot be compared, nor can those
of MT-bench's leaderboard.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qforge.config import given_files
from qforge.config.evaluation import ChatJudge
from qforge.config.places import given_path
from qforge.evaluation.chat_judge import CHARACTERS, HOW_TO_RATE, Cost, Judge, choice, rating
from qforge.evaluation.scorers import Server
from qforge.json_files import write_json

FILE = "conversations.json"  # of a checkpoint: [{"turns": [question, question], "answers": [answer, answer]}, ...]
EXAMPLE = '{"turns": ["...", "..."]}'
RATED, COMPARED = 2, 4  # requests for a question: each turn; each turn in both orders
INSTRUCTION = (
    "Please act as an impartial judge and evaluate the quality of the response provided by an AI assistant to the user "
    "question displayed below. Your evaluation should consider factors such as the helpfulness, relevance, accuracy, "
    f"depth, creativity, and level of detail of the response. {{focus}}{HOW_TO_RATE}"
)
FOCUS = "You evaluation should focus on the assistant's answer to the second user question. "  # MT-bench's own words
ONE = (
    "[Instruction]\n"
    + INSTRUCTION.format(focus="")
    + "\n\n[Question]\n{q1}\n\n[The Start of Assistant's Answer]\n{a1}\n"
    "[The End of Assistant's Answer]"
)
TWO = (
    "<|The Start of Assistant {name}'s Conversation with User|>\n\n### User:\n{q1}\n\n### Assistant {name}:\n{a1}\n\n"
    "### User:\n{q2}\n\n### Assistant {name}:\n{a2}\n\n<|The End of Assistant {name}'s Conversation with User|>"
)
COMPARE = (
    "Please act as an impartial judge and evaluate the quality of the responses provided by two AI assistants to the user "
    "question{plural} displayed below. You should choose the assistant that follows the user's instructions and answers the "
    "user's question{plural} better. Your evaluation should consider factors such as the helpfulness, relevance, accuracy, "
    "depth, creativity, and level of detail of their responses. {focus}Begin your evaluation by comparing the "
    "responses of the two assistants and provide a short explanation. Avoid any position biases and ensure that the order in "
    "which the responses were presented does not influence your decision. Do not allow the length of the responses to "
    "influence your evaluation. Do not favor certain names of the assistants. Be as objective as possible. After providing "
    'your explanation, output your final verdict by strictly following this format: "[[A]]" if assistant A is better, '
    '"[[B]]" if assistant B is better, and "[[C]]" for a tie.'
)
COMPARE_FOCUS = "You should focus on who provides a better answer to the second user question. "
PAIR = (
    "[User Question]\n{q1}\n\n[The Start of Assistant A's Answer]\n{a}\n[The End of Assistant A's Answer]\n\n"
    "[The Start of Assistant B's Answer]\n{b}\n[The End of Assistant B's Answer]"
)

Talk = dict[str, list[str]]  # turns and answers


def cost(settings: ChatJudge, compares: bool) -> Cost:
    """The most that judging takes for one checkpoint, beside bf16's answers or alone."""
    lines = _questions(settings)
    said = sum(len(text) for turns in lines for text in turns) // CHARACTERS
    each, words = settings.answer_tokens, len(INSTRUCTION) // CHARACTERS
    requests = len(lines) * (RATED + (COMPARED if compares else 0))
    # a rating reads a turn's question and answer, then both; a comparison the same with two answers, twice
    read = 2 * said + len(lines) * 3 * each + (4 * said + len(lines) * 12 * each if compares else 0)
    return Cost(requests, read + requests * words, requests * settings.judge_tokens)


def measure(
    settings: ChatJudge, server: Server, out: Path, given: str | None, judge: Judge | None = None
) -> dict[str, Any]:
    """Ratings by question and turn, none where the judge gave none; `mean` is over those that were given. Writes FILE.

    `given`: FILE of bf16, with whose answers these are compared (`pairs`); none: this is bf16, or nothing is beside it.
    """
    judge = judge or Judge(settings)
    with ThreadPoolExecutor(server.parallel) as pool:
        talks = list(pool.map(lambda turns: _talk(settings, server, turns), _questions(settings)))
        write_json(out / FILE, talks)
        ratings = list(pool.map(lambda talk: _ratings(judge, talk), talks))
        others: list[Talk] = json.loads(Path(given).read_text()) if given else []
        pairs = list(pool.map(lambda both: _compared(judge, *both), zip(talks, others, strict=True))) if given else []
    values = [value for turns in ratings for value in turns if value is not None]
    return {
        "judge": settings.model,
        "questions": len(talks),
        "mean": sum(values) / len(values) if values else None,
        "unrated": RATED * len(talks) - len(values),
        "ratings": ratings,
        "pairs": _summary([pair for turns in pairs for pair in turns]) if given else None,
        "unanswered": judge.unanswered,
        "error": judge.error,
        "cut_off": judge.cut_off,
    }


def _questions(settings: ChatJudge) -> list[list[str]]:
    """The turns of each. Raises ValueError for a line that has not two: where, and the fix."""
    assert settings.questions
    key = "eval.judge.questions"
    lines = given_files.json_lines(given_path(settings.questions), key, EXAMPLE)
    if not lines:
        raise ValueError(f"{key}={settings.questions}: has no line; give one question a line, {EXAMPLE}")
    for _, where, line in lines:
        turns = line.get("turns") if isinstance(line, dict) else None
        if not (isinstance(turns, list) and len(turns) == RATED and all(isinstance(turn, str) for turn in turns)):
            raise ValueError(f"{where}: turns are the two texts that are asked after one another; use {EXAMPLE}")
    return [line["turns"] for _, _, line in lines][: settings.limit]


def _talk(settings: ChatJudge, server: Server, turns: list[str]) -> Talk:
    messages: list[dict[str, str]] = []
    answers = []
    for question in turns:
        messages.append({"role": "user", "content": question})
        answers.append(server.chat(messages, settings.answer_tokens))
        messages.append({"role": "assistant", "content": answers[-1]})
    return {"turns": turns, "answers": answers}


def _told(talk: Talk, name: str) -> str:
    (q1, q2), (a1, a2) = talk["turns"], talk["answers"]
    return TWO.format(name=name, q1=q1, a1=a1, q2=q2, a2=a2)


def _ratings(judge: Judge, talk: Talk) -> list[float | None]:
    first = ONE.format(q1=talk["turns"][0], a1=talk["answers"][0])
    return [
        rating(judge.ask({"role": "user", "content": first})),
        rating(
            judge.ask(
                {"role": "system", "content": INSTRUCTION.format(focus=FOCUS)},
                {"role": "user", "content": _told(talk, "A")},
            )
        ),
    ]


def _compared(judge: Judge, own: Talk, other: Talk) -> list[list[str | None]]:
    """By turn what the judge chose with this model as A, then with bf16 as A."""
    return [[_chosen(judge, turn, *order) for order in ((own, other), (other, own))] for turn in range(RATED)]


def _chosen(judge: Judge, turn: int, a: Talk, b: Talk) -> str | None:
    if turn:
        system = COMPARE.format(plural="s", focus=COMPARE_FOCUS)
        shown = f"{_told(a, 'A')}\n\n\n{_told(b, 'B')}"
    else:
        system = COMPARE.format(plural="", focus="")
        shown = PAIR.format(q1=a["turns"][0], a=a["answers"][0], b=b["answers"][0])
    return choice(judge.ask({"role": "system", "content": system}, {"role": "user", "content": shown}))


def _summary(pairs: list[list[str | None]]) -> dict[str, Any]:
    whole = [(first, second) for first, second in pairs if first and second]
    agreed = [pair for pair in whole if pair in (("A", "B"), ("B", "A"), ("C", "C"))]
    won, lost = agreed.count(("A", "B")), agreed.count(("B", "A"))
    return {
        "of": len(pairs), "won": won, "lost": lost, "tied": len(whole) - won - lost, "undecided": len(pairs) - len(whole),
        "agreement": len(agreed) / len(whole) if whole else None, "choices": pairs,
    }  # fmt: skip
