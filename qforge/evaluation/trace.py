"""Requests as people send them: how long prompts and answers are, and with what other prompts each begins alike.

A trace is a file of JSON Lines in the form of Mooncake (https://github.com/kvcache-ai/Mooncake, FAST25-release/traces), which
`vllm bench serve --dataset-name timed_trace` reads:

    {"input_length": 1050, "output_length": 241, "hash_ids": [0, 14, 15]}

Each id stands for BLOCK tokens, the last for what is left of the prompt. Prompts with the same first ids begin with the same
tokens, as those of one conversation or of one system prompt do; a server that caches prefixes computes them once. The tokens
are random.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from qforge.config import given_files
from qforge.config.job import Bench
from qforge.config.places import given_path

BLOCK = 512  # tokens of an id
APART = 1_000_000  # between the ids of one measurement and the next: what one has cached is nothing to the other
EXAMPLE = '{"input_length": 1050, "output_length": 241, "hash_ids": [0, 14, 15]}'


@dataclass(frozen=True)
class Call:
    """One request: tokens in and out, and the ids of the prompt's blocks."""

    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


def read(file: Path, input_len: int, output_len: int) -> list[Call]:
    """The requests of a trace whose prompt and answer are at most so long, in tokens, in the order of the file.

    Raises ValueError for a line that is no request: where, and the fix.
    """
    calls = [_call(where, line) for _, where, line in given_files.json_lines(file, "bench.trace", EXAMPLE)]
    return [call for call in calls if call.input_length <= input_len and call.output_length <= output_len]


def _call(where: str, line: Any) -> Call:
    lengths = [line.get(name) for name in ("input_length", "output_length")] if isinstance(line, dict) else [None]
    if not all(type(length) is int and length > 0 for length in lengths):
        raise ValueError(f"{where}: input_length and output_length are numbers of tokens, 1 or more; use {EXAMPLE}")
    ids, blocks = line.get("hash_ids"), -(-line["input_length"] // BLOCK)
    if not isinstance(ids, list) or len(ids) != blocks or not all(type(i) is int and 0 <= i < APART for i in ids):
        raise ValueError(
            f"{where}: hash_ids is no list of {blocks} numbers from 0 to {APART - 1}, one for every {BLOCK} tokens of the "
            f"prompt; use {EXAMPLE}"
        )
    return Call(line["input_length"], line["output_length"], tuple(ids))


def check(bench: Bench) -> None:
    """Raises ValueError where the trace is not there or has fewer requests than are asked for: the keys and the fix."""
    if not bench.trace:
        return
    if not given_path(bench.trace).is_file():
        raise ValueError(f"bench.trace={bench.trace}: no such file; give a file that exists")
    has, needed = len(asked(bench)), bench.requests * max(bench.concurrency)
    if has < needed:
        raise ValueError(
            f"bench.trace={bench.trace} has {has} requests of at most bench.input_len={bench.input_len} tokens in and "
            f"bench.output_len={bench.output_len} out, and bench.requests={bench.requests} for each of "
            f"{max(bench.concurrency)} streams are {needed}; use fewer, or longer ones"
        )


def asked(bench: Bench, concurrency: int | None = None) -> list[Call]:
    """The requests that are sent at a concurrency; without one all that could be."""
    calls = read(given_path(str(bench.trace)), bench.input_len, bench.output_len)
    return calls[: bench.requests * concurrency] if concurrency else calls


def write(file: Path, calls: Iterable[Call], measurement: int, output_len: int | None = None) -> None:
    """The requests for vLLM's benchmark, with ids of their own for each measurement; `output_len` instead of their own."""
    lines = [
        {
            "timestamp": 0, "input_length": call.input_length, "output_length": output_len or call.output_length,
            "hash_ids": [APART * measurement + i for i in call.hash_ids],
        }
        for call in calls
    ]  # fmt: skip
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def summary(calls: Sequence[Call]) -> dict[str, Any]:
    """How many requests, their mean lengths in tokens, and the percentage of prompt tokens that an earlier one began with."""
    seen: set[int] = set()
    shared = total = 0
    for call in calls:
        for index, block in enumerate(call.hash_ids):
            tokens = min(BLOCK, call.input_length - BLOCK * index)
            total, shared = total + tokens, shared + tokens * (block in seen)
        seen.update(call.hash_ids)
    return {
        "requests": len(calls),
        "mean_input_len": fmean(call.input_length for call in calls),
        "mean_output_len": fmean(call.output_length for call in calls),
        "shared_percent": 100 * shared / total,
    }
