"""Does the server behave: the same greedy text every time, language rather than noise, and no error under load?

`degenerate` text is empty, mostly symbols, or repeats itself: more than half of its 4-grams have been there before (1 -
unique / all, seq-rep-4 of Welleck et al. 2019). Small models repeat themselves unquantized too: compare with bf16.
Prompts go through the chat template where there is one. The load keeps eval.concurrency requests in flight, each of
eval.context tokens in all, with prompts that share no prefix, so that none comes out of a cache.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import httpx

from qforge.config.evaluation import Eval
from qforge.config.places import given_path
from qforge.evaluation.scorers import Server
from qforge.runtimes.vllm import not_language

GRAM = 4
REPEATED = 0.5  # share of 4-grams


def measure(settings: Eval, server: Server, tokenizer: Any) -> dict[str, Any]:
    """Faults and differences of the answers to the prompts, and what a sustained load did."""
    options = settings.stability
    prompts = given_path(str(options.prompts)).read_text().splitlines()
    ids = [tokens_of(tokenizer, prompt) for prompt in prompts]
    with ThreadPoolExecutor(server.parallel) as pool:
        rounds = [list(pool.map(lambda p: server.complete(p, options.tokens), ids)) for _ in range(options.repeats)]
    first = rounds[0]
    faults = [(prompt, fault(text), text) for prompt, text in zip(prompts, first, strict=True)]
    degenerate = [{"prompt": p, "fault": f, "text": text[:200]} for p, f, text in faults if f]
    differing = sum(len(set(texts)) > 1 for texts in zip(*rounds, strict=True))
    return {
        "prompts": len(prompts),
        "repeats": options.repeats,
        "tokens": options.tokens,
        "concurrency": server.parallel,
        "degenerate": degenerate,
        "degenerate_share": len(degenerate) / len(prompts),
        "differing_share": differing / len(prompts),
        "load": _load(settings, server, tokenizer) if options.load_seconds else None,
    }


def tokens_of(tokenizer: Any, prompt: str) -> list[int]:
    """A prompt as the model wants it: in its chat template, or as text to go on with where it has none."""
    if tokenizer.chat_template is None:
        return list(tokenizer(prompt)["input_ids"])
    chat = [{"role": "user", "content": prompt}]
    return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])


def fault(text: str) -> str | None:
    """What is wrong with a generated text; none where nothing is."""
    words = text.split()
    grams = [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
    if len(grams) >= 2 * GRAM and 1 - len(set(grams)) / len(grams) > REPEATED:
        return "repeats itself"
    return not_language(text)


def _load(settings: Eval, server: Server, tokenizer: Any) -> dict[str, Any]:
    """Each stream sends its next request when its last one is answered, until the time is over or one has failed."""
    text = given_path(next(iter(settings.texts.values())).path).read_text()
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = settings.stability.tokens
    length = settings.context - tokens
    started, finished, errors, numbers = time.monotonic(), [], [], count()
    end = started + settings.stability.load_seconds

    def stream(_: int) -> None:
        while time.monotonic() < end:
            begin = 7 * next(numbers) % (len(ids) - length)  # no two prompts begin alike
            try:
                server.complete(ids[begin : begin + length], tokens, to_the_end=True)
            except httpx.HTTPError as error:
                errors.append(f"{type(error).__name__}: {error}")
                return
            finished.append(time.monotonic() - started)

    with ThreadPoolExecutor(server.parallel) as pool:
        list(pool.map(stream, range(server.parallel)))
    seconds = time.monotonic() - started
    halves = sum(at <= seconds / 2 for at in finished), sum(at > seconds / 2 for at in finished)
    return {
        "seconds": seconds,
        "concurrency": server.parallel,
        "tokens_per_request": settings.context,
        "requests": len(finished) + len(errors),
        "failed": len(errors),
        "errors": sorted(set(errors)),
        "tokens_per_second_halves": [tokens * n / (seconds / 2) for n in halves],
    }
