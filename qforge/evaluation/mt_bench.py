"""Chat, graded by another model: MT-bench's questions, answered here, rated from 1 to 10 behind any OpenAI-compatible API.

The questions have two turns; each answer is graded by itself, with MT-bench's own prompts for single answers (Zheng et al.
2023; FastChat's single-v1 and single-v1-multi-turn, without reference answers). Greedy on both sides. A judge that gives no
rating is counted, not guessed at. Ratings of different judges cannot be compared, nor can those of MT-bench's leaderboard.
"""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from qforge.config.evaluation import ChatJudge
from qforge.config.places import given_path
from qforge.envs.request import Refused
from qforge.evaluation.scorers import Server

KEY = "QFORGE_JUDGE_KEY"  # environment variable with the judge's API key
RATING = re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]")
INSTRUCTION = (
    "Please act as an impartial judge and evaluate the quality of the response provided by an AI assistant to the user "
    "question displayed below. Your evaluation should consider factors such as the helpfulness, relevance, accuracy, "
    "depth, creativity, and level of detail of the response. {focus}Begin your evaluation by providing a short "
    "explanation. Be as objective as possible. After providing your explanation, you must rate the response on a scale "
    'of 1 to 10 by strictly following this format: "[[rating]]", for example: "Rating: [[5]]".'
)
FOCUS = "You evaluation should focus on the assistant's answer to the second user question. "  # MT-bench's own words
ONE = (
    "[Instruction]\n"
    + INSTRUCTION.format(focus="")
    + "\n\n[Question]\n{q1}\n\n[The Start of Assistant's Answer]\n{a1}\n"
    "[The End of Assistant's Answer]"
)
TWO = (
    "<|The Start of Assistant A's Conversation with User|>\n\n### User:\n{q1}\n\n### Assistant A:\n{a1}\n\n### User:\n{q2}"
    "\n\n### Assistant A:\n{a2}\n\n<|The End of Assistant A's Conversation with User|>"
)


class Judge:
    """A model behind OpenAI's API. Raises Refused where it cannot be asked."""

    def __init__(self, settings: ChatJudge) -> None:
        key = os.environ.get(KEY)
        self.settings = settings
        self.client = httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=600)

    def greet(self) -> None:
        """Ask it something small. Raises Refused where it does not answer."""
        self.rate({"role": "user", "content": "Answer with [[5]]."})

    def rate(self, *messages: dict[str, str]) -> float | None:
        """The rating that the judge gives, or none."""
        settings = self.settings
        body = {"model": settings.model, "messages": messages, "temperature": 0, "max_tokens": settings.judge_tokens}
        try:
            reply = self.client.post(
                f"{str(settings.base_url).rstrip('/')}/chat/completions", json=body
            ).raise_for_status()
        except httpx.HTTPError as error:
            raise Refused(
                f"eval.judge.base_url={settings.base_url}: model {settings.model!r} does not answer: {error}; the address ends "
                f"in /v1, and the key, if it needs one, is taken from the environment variable {KEY}"
            ) from None
        return rating(str(reply.json()["choices"][0]["message"]["content"]))


def rating(reply: str) -> float | None:
    """The rating in a judge's reply, or none where it gives none from 1 to 10."""
    match = RATING.search(reply)
    return float(match[1]) if match and 1 <= float(match[1]) <= 10 else None


def measure(settings: ChatJudge, server: Server) -> dict[str, Any]:
    """Ratings by question and turn; none where the judge gave no rating. `mean` is over those that were given."""
    judge = Judge(settings)
    lines = given_path(settings.questions).read_text().splitlines()[: settings.limit]

    def talk(line: str) -> list[float | None]:
        q1, q2 = json.loads(line)["turns"]
        messages = [{"role": "user", "content": q1}]
        a1 = server.chat(messages, settings.answer_tokens)
        messages += [{"role": "assistant", "content": a1}, {"role": "user", "content": q2}]
        a2 = server.chat(messages, settings.answer_tokens)
        return [
            judge.rate({"role": "user", "content": ONE.format(q1=q1, a1=a1)}),
            judge.rate(
                {"role": "system", "content": INSTRUCTION.format(focus=FOCUS)},
                {"role": "user", "content": TWO.format(q1=q1, a1=a1, q2=q2, a2=a2)},
            ),
        ]

    with ThreadPoolExecutor(server.parallel) as pool:
        ratings = list(pool.map(talk, lines))
    values = [value for turns in ratings for value in turns if value is not None]
    return {
        "judge": settings.model,
        "questions": len(lines),
        "mean": sum(values) / len(values) if values else None,
        "unrated": 2 * len(lines) - len(values),
        "ratings": ratings,
    }
