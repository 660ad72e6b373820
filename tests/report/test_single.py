"""What a single run says beside its verdict: what it costs and saves, and what to try next, as a command that works."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from support.command import ROOT
from support.jobs import job

from qforge.judge.goals import judge_again
from qforge.pipeline.checks import check
from qforge.report.single import costs, next_step


def committed(name: str, **changed: Any) -> dict[str, Any]:
    row = json.loads((ROOT / "results" / f"{name}.json").read_text())
    return {**judge_again(row, job().goals), **changed}


def test_costs_and_savings_in_one_line() -> None:
    assert costs(committed("smollm2_135m-gptq-cpu")) == (
        "113.1 MB instead of 269.0 MB, 6.73 bits per weight; perplexity of wikitext +27.3 %; perplexity of python_reference "
        "+74.3 %; tokens/s, bf16 = 1, by streams: 0.76 at 1, 0.57 at 4"
    )
    assert costs(committed("smollm2_135m-bf16-cpu")) == "269.0 MB instead of 269.0 MB, 16.00 bits per weight"


@pytest.mark.parametrize(
    ("row", "command", "said", "then"),
    [
        ("smollm2_135m-gptq-cpu", "python run.py method=gptq exempt=boundary group_size=64", "spend bits where they count",
         "python run.py --multirun search=ladder method=gptq group_size=64"),
        ("qwen2_5_coder_1_5b-nvfp4-h200", "qforge model=qwen2_5_coder_1_5b hw=h200 method=nvfp4", "which method for what",
         "qforge method=auto plan_only=true model=qwen2_5_coder_1_5b hw=h200"),
        ("qwen2_5_coder_1_5b-nvfp4_hessian-h200", "qforge method=nvfp4_hessian hw=h200", "measure more of what is undecided",
         "qforge method=nvfp4_hessian hw=h200 eval.adaptive=true"),
    ],
)  # fmt: skip
def test_what_to_try_next_is_a_command_that_composes(row: str, command: str, said: str, then: str) -> None:
    found = next_step(committed(row, command=command))
    assert found
    assert found[0].startswith(said)
    assert found[1] == then
    check(job(*[word for word in shlex.split(then) if "=" in word and not word.startswith(("search=", "method=auto"))]))


def test_nothing_follows_where_nothing_was_judged_or_nothing_could_be_mended() -> None:
    assert next_step(committed("smollm2_135m-bf16-cpu")) is None
    assert next_step(committed("smollm2_135m-gptq-cpu", artifact="/somebody/elses")) is None
    undecided = committed("qwen2_5_coder_1_5b-nvfp4_hessian-h200", command="qforge hw=h200 eval.adaptive=true")
    assert next_step(undecided) is None


def test_what_is_good_for_all_is_served() -> None:
    row = committed("qwen2_5_coder_1_5b-nvfp4_hessian-h200")
    good = {**row, "goals": {name: {"verdict": "accept", "criteria": []} for name in row["goals"]}, "criteria": []}
    assert next_step(good) == ("serve it, in the folder of this page", "vllm serve artifact")
