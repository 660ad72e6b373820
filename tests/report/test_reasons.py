"""What a row says of its KV cache, beside what it says of its weights."""

from __future__ import annotations

import math

import pytest
from support.jobs import job
from support.measured import results

from qforge.judge import goals
from qforge.report import reasons

BF16 = results(loss=math.log(15.1), noise=0.01)
FP8 = results(
    loss=math.log(29.1), noise=0.01
)  # the perplexities of Qwen2.5-Coder-1.5B with an FP8 cache without scales


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        (FP8, "; bf16 weights with kv=fp8: unsound: perplexity of text +92.7 %, wanted at most +5 %, so it is the cache"),
        (BF16, ""),
    ],
)  # fmt: skip
def test_where_bf16_weights_fail_with_the_cache_too_it_is_the_cache(cache: dict, says: str) -> None:
    asked = job("kv=fp8", "hw=h200")
    verdict, beside = (goals.judge(asked.gate, asked.goals, side, BF16) for side in (FP8, cache))
    verdict["cache"] = {"kv": "fp8", **beside["sound"], "says": beside["says"].partition("; ")[0]}
    assert reasons.it_is_the_cache(verdict).startswith(says)
    assert bool(reasons.it_is_the_cache(verdict)) is bool(says)
    assert reasons.of_cache(verdict).startswith(f"bf16 weights with kv=fp8: {'un' if says else ''}")
    assert reasons.of_cache({}) == ""
