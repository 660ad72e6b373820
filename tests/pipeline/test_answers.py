"""What environments refuse is refused in the plan where they are made, noted where they are not, and asked once."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.command import Cli
from support.jobs import job

from qforge.envs import managed
from qforge.pipeline import answers
from qforge.pipeline.checks import check
from qforge.pipeline.run import Run
from qforge.store.results import Store


def refused(done: object, message: str) -> None:
    assert done.code == 2, done.output  # type: ignore[attr-defined]
    assert message in done.output  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+runtime.args.dtype=fp12"], "runtime.args.dtype=fp12: vLLM 0.32.0 refuses it: invalid choice"),
        (["eval.tasks=[arc_easyy]"], "eval.tasks: lm-eval has no task arc_easyy; use arc_easy"),
        (
            ["eval.tasks=[humaneval]"],
            "eval.tasks: humaneval: lm-eval would run the code that the model writes outside of a sandbox",
        ),
        (["method.function=nope:nope"], "method.function=nope:nope: there is no module nope in this environment"),
        (["artifact=/nope"], "artifact=/nope: no checkpoint there"),
        (["store=/proc/x"], "store=/proc/x: No such file or directory; give a folder that can be created"),
        (["runtime=existing", "runtime.python=/nope"], "runtime.python=/nope: not an executable"),
        (["runtime.env=nope"], "env=nope: no such environment; choose from"),
        (["method.env=nope"], "env=nope: no such environment; choose from"),
    ],
)
def test_the_plan_refuses_what_an_environment_or_a_place_refuses(cli: Cli, overrides: list[str], message: str) -> None:
    managed.managed("vllm_cpu"), managed.managed("quant")
    refused(cli.inside("plan_only=true", *overrides), message)


def test_an_image_that_is_not_here(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho 'no such image' >&2\nexit 125\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    given = ("plan_only=true", "runtime=container", "runtime.container=nope:latest")
    refused(cli.inside(*given), "runtime.container=nope:latest: it is not available here (podman: no such image")
    elsewhere = cli.inside(*given, "hw=mi325x")
    assert elsewhere.code == 0, elsewhere.output
    assert "runtime=container was not checked: this machine has no amd GPU" in elsewhere.output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+runtime.args.port=80", "runtime.args.port: use serve.port"),
        (
            "+runtime.args.model=/x",
            "runtime.args.model: the checkpoint of the run is served; to serve another, use artifact",
        ),
        ("+runtime.args.api_key='${oc.env:HOME}'", "runtime.args.api_key: use serve.api_key"),
        ("+runtime.args.api-key=x", "runtime.args.api-key: use serve.api_key"),
        ("+runtime.args.trust_remote_code=true", "runtime.args.trust_remote_code: use model.trust_remote_code"),
        ("+runtime.args.quantization=gptq", "runtime.args.quantization: vLLM reads it from the checkpoint"),
        ("+hw.args.host=0.0.0.0", "hw.args.host: the server listens on this machine only"),
        ("method.function=qforge.methods.nope:f", "there is no module qforge.methods.nope"),
        ("method.function=qforge.methods.streaming:nope", "qforge.methods.streaming has no function nope"),
        ("method.function=quantize", "method.function=quantize: is not an import path; use module:function"),
        ("eval.judge.base_url=ftp://x", "eval.judge.base_url=ftp://x: is not an address of an OpenAI-compatible API"),
        ("eval.judge.base_url=http:///v1", "eval.judge.base_url=http:///v1: is not an address"),
        ("sensitivity.text=nope", "sensitivity.text=nope: choose from eval.texts: wikitext, python_reference"),
    ],
)
def test_what_needs_no_environment_to_be_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(job(override, "plan_only=true"))


def test_what_is_not_made_is_not_asked_in_a_plan_and_the_plan_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "VENVS", tmp_path)
    made = job("+runtime.args.dtype=fp12", "eval.tasks=[nope]", "method.function=nope:nope", f"store={tmp_path}")
    assert answers.check(Run(made, tmp_path / "out"), make=False) == [
        "runtime.args not checked yet: runtime=vllm_cpu does not exist yet; the run makes it and checks first",
        "eval.tasks not checked yet: the environment quant does not exist yet; the run makes it and checks first",
        "method.function not checked yet: the environment quant does not exist yet; the run makes it and checks first",
    ]


def test_an_answer_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job("+runtime.args.seed=1", "eval.kv_dtypes=[fp7]", f"store={tmp_path}")
    calls: list[str] = []

    def ask(environment: object, module: str, values: str) -> dict[str, list[str]]:
        calls.append(values)
        return {"faults": ["no"]}

    monkeypatch.setattr(answers, "ask", ask)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            answers.check(Run(made, tmp_path / "out"), make=True)
    assert calls == ['[["runtime.args.seed", ["--seed", "1"]], ["eval.kv_dtypes", ["--kv-cache-dtype", "fp7"]]]']
    assert len(list(Store(tmp_path).root.glob("answers/*/result.json"))) == 1


def test_rows_of_a_sweep_wait_for_the_one_that_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty rows asked vLLM at once, each importing it: 29 s on 32 cores."""
    made = job("+runtime.args.seed=1", f"store={tmp_path}")
    calls: list[str] = []

    def ask(environment: object, module: str, values: str) -> dict[str, Any]:
        calls.append(values)
        time.sleep(0.5)
        return {"faults": []}

    monkeypatch.setattr(answers, "ask", ask)
    with ThreadPoolExecutor(4) as rows:
        said = list(rows.map(lambda row: answers.check(Run(made, tmp_path / str(row)), make=True), range(4)))
    assert (said, len(calls)) == ([[]] * 4, 1)


def test_rows_that_waited_for_a_fault_ask_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that hangs is asked for five minutes: not by one row after the other."""
    made, asking, together = job("+runtime.args.seed=1", f"store={tmp_path}"), [0], [0]

    def ask(environment: object, module: str, values: str) -> dict[str, Any]:
        asking[0] += 1
        together[0] = max(together[0], asking[0])
        time.sleep(0.5)
        asking[0] -= 1
        return {"fault": "it took too long"}

    monkeypatch.setattr(answers, "ask", ask)
    with ThreadPoolExecutor(4) as rows:
        said = list(rows.map(lambda row: answers.check(Run(made, tmp_path / str(row)), make=True), range(4)))
    assert {tuple(each) for each in said} == {
        ("runtime.args not checked: runtime=vllm_cpu did not answer (it took too long)",)
    }
    assert together[0] == 3, "all but the one that they waited for"


def test_what_did_not_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job("+runtime.args.seed=1", f"store={tmp_path}")
    monkeypatch.setattr(answers, "ask", lambda *_: {"fault": "no module named vllm"})
    said = answers.check(Run(made, tmp_path / "out"), make=True)
    assert said == ["runtime.args not checked: runtime=vllm_cpu did not answer (no module named vllm)"]
    monkeypatch.setattr(answers, "ask", lambda *_: {"faults": []})
    assert answers.check(Run(made, tmp_path / "out"), make=True) == []


def test_for_the_committed_options_nobody_is_asked() -> None:
    for overrides in (
        ["hw=cpu"],
        ["hw=h100"],
        ["eval=full"],
        ["runtime=transformers"],
        ["stages=[quantize]", "+runtime.args.x=1"],
    ):
        assert not list(answers.questions(job(*overrides)))
