"""Code of a model is run where it can reach nothing, or not at all."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
from support.checkpoints import in_quant
from support.command import ROOT
from support.jobs import job

from qforge.evaluation import questions, sandbox
from qforge.pipeline.checks import check

here = pytest.mark.skipif(sandbox.fault() is not None, reason=f"{sandbox.fault()}: apt-get install bubblewrap")


def test_code_is_the_first_block_of_python() -> None:
    assert sandbox.code("So:\n```\nx\n```\nor\n```python\ny = 1\n```\n") == "y = 1\n"
    assert sandbox.code("```\nx = 1\n") == "x = 1\n", "an answer that was cut off"
    assert sandbox.code("x = 1") == "x = 1"
    assert sandbox.code("1. So:\n   ```python\n   if x:\n       y = 1\n   ```") == "if x:\n    y = 1\n", "in a list"


@here
@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("def f(x):\n    return x + 1", True),
        ("def f(x):\n    return x", False),
        ("def f(x) return x", False),
        ("import sys\nsys.exit(0)", False),
        ("while True: pass", False),
        ("f = lambda x: len(bytes(2**31))", False),
        ("from __future__ import annotations\ndef f(x: Later): return x + 1", True),
        ("def f(x):\n    return x + 1\nif __name__ == '__main__':\n    print(f(int(input())))", True),
    ],
    ids=[
        "right",
        "wrong",
        "no code",
        "leaves early",
        "never ends",
        "takes memory",
        "of the future",
        "asks its user",
    ],
)
def test_tests_decide(code: str, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "LIMITS", sandbox.LIMITS.replace(f"({sandbox.SECONDS},)", "(1,)"))
    assert sandbox.passes(f"```python\n{code}\n```", "assert f(1) == 2") is passes


@here
def test_what_code_prints_takes_no_memory_here() -> None:
    """12 GB in ten seconds, where it was kept in memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not sandbox.passes("while True: print('x' * 10**6)", "assert True")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "in KiB"
    assert sandbox.passes("print('x' * 10**6)", "assert True"), "what it prints is no fault"


@here
def test_tests_below_a_guard_are_run() -> None:
    assert not sandbox.passes("x = 1", "if __name__ == '__main__':\n    assert x == 2")


@here
def test_nothing_outside_can_be_read_written_or_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("x")
    monkeypatch.setenv("TOKEN", "secret")
    assert sandbox.passes(
        "import os", f"assert not os.path.exists({str(tmp_path)!r})\nassert 'TOKEN' not in os.environ"
    )
    assert not sandbox.passes("", "open('/usr/lib/x', 'w')")
    assert sandbox.passes("import socket", "assert [name for _, name in socket.if_nameindex()] == ['lo']")


def test_without_a_sandbox_it_is_refused_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        ValueError, match=r"eval\.tasks: .* runs code that a model wrote, and there is no bubblewrap; install"
    ):
        check(job("eval.tasks=[data/tasks/python_functions.jsonl]"))
    check(job("eval.tasks=[data/tasks/python_functions.jsonl]", "stages=[quantize]"))


@pytest.mark.parametrize("text", ['{"question": "q", "tests": ""}', '{"question": "q", "tests": "x = 1"}'])
def test_tests_without_an_assertion_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.jsonl").write_text(text)
    with pytest.raises(ValueError, match="line 1: tests is no text with assert"):
        questions.read(tmp_path / "mine.jsonl")


def test_committed_tests_are_python() -> None:
    for question in questions.read(ROOT / "data/tasks/python_functions.jsonl"):
        compile(question.tests, question.id, "exec")


TEMPLATE = """
import sys
from jinja2.exceptions import SecurityError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from qforge.config.job import Job
from qforge.evaluation import tokenizer
words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
for template in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}"):
    words.chat_template = template
    words.save_pretrained(sys.argv[1])
    try:
        print(tokenizer.load(sys.argv[1], Job()).apply_chat_template([{"role": "user", "content": "a"}], tokenize=False))
    except SecurityError as refused:
        print("refused", refused)
"""


def test_chat_templates_of_a_model_reach_nothing(tmp_path: Path) -> None:
    said = in_quant("-c", TEMPLATE, tmp_path).stdout.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["refused"] * 3, said
