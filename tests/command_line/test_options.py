"""What a command line may say for an option: refused in one line before Hydra sees it, or read as it is meant."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.command import Cli
from support.jobs import job

from qforge import cli
from qforge.machine import hardware
from qforge.pipeline.verify import verify


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("=1", "=1: a key is missing; use key=value, or group=option"),
        ("hw=1", "hw=1: not the name of an option; choose from a100, b200, cpu"),
        ("method=null", "method=null: not the name of an option; choose from auto"),
        ("method=gptq,2", "method=gptq,2: not the name of an option"),
        ("exempt=[lm_head,1.5]", "exempt=[lm_head,1.5]: not the name of an option"),
        ("eval.texts={}", "eval.texts={}: changes nothing; to remove an entry use ~eval.texts.NAME"),
        ("+runtime.environ={}", "changes nothing; to remove an entry use ~runtime.environ.NAME"),
    ],
)
def test_what_hydra_would_end_with_a_traceback_for_or_ignore(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        cli.expand(["run.py", argument])


@pytest.mark.parametrize(
    "argument", ["exempt=[]", "exempt=[lm_head,boundary]", "method=gptq,awq", "group_size=64", "~hw", "--cfg", "a={b"]
)
def test_what_is_left_to_hydra(argument: str) -> None:
    assert cli.expand(["run.py", argument]) == ["run.py", argument]


def test_auto_is_this_machine_also_in_a_sweep_and_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "detect", lambda: "cpu")
    given = ["hw=auto", "hw=h100,auto", "hw=cpu,auto", "hw=[auto,h100]", "hw=h100"]
    assert cli.expand(given) == ["hw=cpu", "hw=h100,cpu", "hw=cpu", "hw=[cpu,h100]", "hw=h100"]


def test_a_list_of_one_hardware_is_that_hardware(cli: Cli) -> None:
    done = cli.inside("hw=[h100]", "plan_only=true", "model=qwen3_8b")
    assert done.code == 0, done.output
    assert "on h100 with vllm" in done.output


def test_an_unknown_format_is_refused(cli: Cli) -> None:
    done = cli.inside("method.format=nope", "plan_only=true")
    assert done.code == 2
    assert "method.format=nope: unknown; choose from bf16, int4, int4_asym" in done.output


def test_verify_takes_a_path_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    assert cli.expand(["verify=~/x", "store=~/y", "a=b~/c"]) == [
        f"verify={tmp_path}/x",
        f"store={tmp_path}/y",
        "a=b~/c",
    ]
    with pytest.raises(ValueError, match=re.escape(f"verify={tmp_path}/x: no qforge/hashes.json in it")):
        verify(replace(job(), verify="~/x"), tmp_path)
