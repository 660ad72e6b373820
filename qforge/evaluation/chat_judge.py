"""A model behind any OpenAI-compatible API that is asked what it thinks of answers: what it says, and what that costs.

It is greeted before anything is measured, and refused where it is away or cannot say a rating that it is told word for word.
Later a request that fails is sent again twice; what stays unanswered is counted: nothing else that was measured is lost by it.
Where GONE in a row stay unanswered, it is asked nothing more. The last rating or choice in a reply counts: a judge that thinks
aloud comes to it in the end.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass

import httpx

from qforge.config.evaluation import ChatJudge
from qforge.envs.request import Refused

KEY = "QFORGE_JUDGE_KEY"  # environment variable with the judge's API key
RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
CHOICE = re.compile(r"\[\[([ABC])\]\]")
LOWEST, HIGHEST = 1.0, 10.0  # rating
HOW_TO_RATE = (  # in MT-bench's own words; what `rating` reads
    "Begin your evaluation by providing a short explanation. Be as objective as possible. After providing your explanation, "
    'you must rate the response on a scale of 1 to 10 by strictly following this format: "[[rating]]", for example: '
    '"Rating: [[5]]".'
)
CHARACTERS = 4  # of a token
PAUSES = (1.0, 5.0)  # seconds before a request is sent again, unless the judge asks for more
LONGEST = 60.0  # seconds that it may ask for
GONE = 20  # requests in a row that nobody answers

Message = dict[str, str]


@dataclass(frozen=True)
class Cost:
    """What judging takes at most. Tokens: CHARACTERS each, which is English in common vocabularies."""

    requests: int
    tokens_in: int
    tokens_out: int

    def __add__(self, other: Cost) -> Cost:
        """Of both."""
        return Cost(
            self.requests + other.requests, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out
        )

    def says(self) -> str:
        """In words, for the plan."""
        return f"{self.requests:,} requests, at most {self.tokens_in:,} tokens in and {self.tokens_out:,} out"


class Judge:
    """Asks the judge. `unanswered` counts the requests that failed for good, `error` is the first one's; `cut_off`
    the replies that ended at judge_tokens: a judge that does not come to its rating. Raises Refused for a key that cannot
    be sent."""

    def __init__(self, settings: ChatJudge, pauses: tuple[float, ...] = PAUSES) -> None:
        self.key = (os.environ.get(KEY) or "").strip()  # a file of keys ends its lines
        if not self.key.isascii():
            raise Refused(f"{KEY}: the judge's key has a character that is none of ASCII; copy it again")
        self.settings, self.pauses = settings, pauses
        self.client = httpx.Client(headers={"Authorization": f"Bearer {self.key}"} if self.key else {}, timeout=600)
        self.unanswered, self.error, self.cut_off, self.counting = 0, "", 0, threading.Lock()
        self.in_a_row = 0  # requests that failed for good since the last answer

    @property
    def where(self) -> str:
        """Which judge a message is about."""
        return f"eval.judge.base_url={self.settings.base_url}: model {self.settings.model!r}"

    def greet(self) -> None:
        """Ask it something small. Raises Refused where it is away, or misses the point."""
        asked, where = {"role": "user", "content": "Answer with [[5]] and nothing else."}, self.where
        try:
            said = self._reply([asked])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Refused(
                f"{where} does not answer: {self._why(error)}; the address ends in /v1, and the key, if it needs one, is "
                f"taken from the environment variable {KEY}"
            ) from None
        except ValueError:
            raise Refused(f"{where} answers, but not as OpenAI's chat API does; give the address of one") from None
        if rating(said) is None:
            raise Refused(
                f"{where} was told to say [[5]] and said {said!r:.80}; a judge must keep to a form: give another"
            )

    def ask(self, *messages: Message) -> str:
        """What the judge says; nothing where it does not answer, or has not for GONE requests in a row."""
        gone = self.in_a_row >= GONE
        for pause in (*self.pauses, None) if not gone else ():
            try:
                said = self._reply(messages)
                self.in_a_row = 0
                return said
            except (httpx.HTTPError, ValueError) as error:
                self.error = self.error or self._why(error) if pause is None else self.error
                time.sleep(0 if pause is None else max(pause, asked_to_wait(error)))
        with self.counting:
            self.unanswered, self.in_a_row = self.unanswered + 1, self.in_a_row + 1
        return ""

    def _reply(self, messages: tuple[Message, ...] | list[Message]) -> str:
        """Raises httpx.HTTPError, and ValueError for what is no answer of a chat API."""
        settings = self.settings
        body = {
            "model": settings.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": settings.judge_tokens,
        }
        url = f"{str(settings.base_url).rstrip('/')}/chat/completions"
        content = self.client.post(url, json=body).raise_for_status().text
        try:
            choice = json.loads(content)["choices"][0]
            said = str(choice["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"no chat completion ({type(error).__name__})") from None
        with self.counting:
            self.cut_off += choice.get("finish_reason") == "length"
        return said

    def _why(self, error: httpx.HTTPError | httpx.InvalidURL | ValueError) -> str:
        """In one line, without the key: of a status what the judge says of it, as that its context is too short."""
        if not isinstance(error, httpx.HTTPStatusError):
            return str(error) or type(error).__name__
        reply = error.response
        text = " ".join(reply.text.split())
        return f"{reply.status_code} {reply.reason_phrase}: {text.replace(self.key, '...') if self.key else text:.300}"


def asked_to_wait(error: Exception) -> float:
    """Seconds of the judge's Retry-After, at most LONGEST; 0 where it gives none, or a date."""
    given = error.response.headers.get("Retry-After", "") if isinstance(error, httpx.HTTPStatusError) else ""
    return min(float(given), LONGEST) if re.fullmatch(r"\d+(\.\d+)?", given) else 0.0


def rating(reply: str) -> float | None:
    """The last rating in a judge's reply, or none where that is none from 1 to 10."""
    found = RATING.findall(reply)
    return float(found[-1]) if found and LOWEST <= float(found[-1]) <= HIGHEST else None


def choice(reply: str) -> str | None:
    """A, B, or C for a tie, as the reply's last mark says; none where it has none."""
    found = CHOICE.findall(reply)
    return str(found[-1]) if found else None
