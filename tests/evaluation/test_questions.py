"""Files of questions, and what answers are held against: checks of instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT
from support.jobs import job

from qforge.evaluation import flips, instructions, questions, tool_calls
from qforge.pipeline.checks import check

CHECKED = '{"question": "q", "checks": [{%s}]}'
TIMER = (
    '{"question": "q", "tools": [{"name": "f", "parameters": {"properties": {"a": %s}}}], '
    '"call": {"name": "f", "arguments": {"a": %s}}}'
)
GOOD = '{"question": "Capital of Spain?", "answer": "Madrid"}'


def test_a_line_is_a_question_with_one_or_more_answers(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f'{GOOD}\n\n{{"id": "hour", "question": "Minutes of an hour?", "answer": ["60", "sixty"]}}\n')
    first, second = questions.read(file)
    assert (first.id, first.answers, first.kind) == ("1", ["Madrid"], "answer")
    assert (second.id, second.answers) == ("hour", ["60", "sixty"])
    assert questions.read(file, 1) == [first]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no line"),
        ("hello", r"line 1: Expecting value.*each line is an object"),
        ("[1]", "line 1 is no object"),
        (f'{GOOD}\n{{"answer": "x"}}', "line 2 has no question"),
        ('{"question": " ", "answer": "x"}', "line 1 has no question"),
        ('{"question": "q"}', "line 1 needs exactly one of answer, checks, call, tests"),
        ('{"question": "q", "answer": ["a", 1]}', "line 1: answer is no text, and no list of texts"),
        ('{"question": "q", "answers": ["a"]}', "line 1: 'answers' is unknown; a line has id, question, tools, answer"),
        ('{"question": "q", "checks": [{"kind": "rhymes"}]}', "line 1: checks: kind 'rhymes' is unknown; choose from words"),
        ('{"question": "q", "checks": [{"kind": "has"}]}', "line 1: checks: has needs text"),
        ('{"question": "q", "call": null}', "line 1: call needs tools"),
        (CHECKED % '"kind": []', r"checks: kind \[\] is unknown; choose from words"),
        (CHECKED % '"kind": "words", "at_least": "three"', 'checks: "three" of words is no number from 0 on; use one'),
        (CHECKED % '"kind": "words", "at_least": null', "checks: null of words is no number from 0 on"),
        (CHECKED % '"kind": "words", "at_least": 5, "at_most": 3', "at_least=5 at_most=3 of words: no answer keeps both"),
        (CHECKED % '"kind": "words", "atmost": 3', "checks: 'atmost' of words is unknown; it takes at_least, at_most"),
        (CHECKED % '"kind": "quoted", "text": "a"', "checks: 'text' of quoted is unknown; it takes nothing else"),
        (CHECKED % '"kind": "has", "text": 5', "checks: text of has is no text; give one"),
        (CHECKED % '"kind": "json", "keys": "a"', "checks: keys of json is no list of texts"),
        (TIMER % ('{"type": "int"}', "5"), 'parameters of f is no JSON Schema: type "int" is unknown, choose from string'),
        (TIMER % ("true", "5"), "parameters of f is no JSON Schema: true is no object; mend it, or leave it out"),
        (TIMER % ('{"items": [{"type": "string"}]}', "5"), r'no JSON Schema: \[{"type": "string"}\] is no object'),
        (TIMER % ('{"required": null}', "5"), "no JSON Schema: required is no list"),
        (TIMER % ('{"type": "integer"}', '"five"'), 'no call would be right: f takes no a of "five"; mend call or'),
        (TIMER % ('{"enum": ["C", "F"]}', '"K"'), 'no call would be right: f takes no a of "K"'),
        (TIMER % ('{"type": "integer"}', '{"any_of": 5}'), 'no call would be right: f takes no a of {"any_of": 5}'),
        ('{"question": "q", "tools": [{"name": 5}], "call": null}', "call needs tools, a list of functions .* a name"),
        ('{"question": "q", "tools": [{"name": "f", "description": 5}], "call": null}', "description of f is no text"),
        ('{"question": "q", "answer": "a", "tools": []}', "line 1 has tools and no call; give the call that is wanted"),
        (r'{"question": "cut \ud83d", "answer": "a"}', r"line 1: \\ud83d is half of a character, which cannot be sent"),
        ('{"question": "q", "tools": [{"name": "f"}], "call": "f"}', "call is neither null nor"),
        ('{"question": "q", "checks": []}', "line 1: checks is empty, and every answer would keep to it"),
        ('{"question": "q", "tests": "assert f(1"}', r"line 1: tests is no Python, .*was never closed \(line 1 of tests\)"),
        ('{"question": "q", "tools": [{"name": "f"}], "call": {"name": "g", "arguments": {}}}', "names g, which .*; use f"),
        ('{"question": "q", "tools": [{"name": "f"}], "call": {"name": "f", "arguments": 3}}', "call is neither null nor"),
        ('{"question": "q", "tools": [{"name": "f", "parameters": [1]}], "call": null}', "parameters of f is no JSON Schema"),
        (f'{{"id": "2", "question": "q", "answer": "a"}}\n{GOOD}', "line 2: its id, 2, is that of line 1, too"),
        (f'{GOOD}\n{{"question": "q", "checks": [{{"kind": "quoted"}}]}}', "mixes answer, checks, call, tests, rubric; use"),
        ('{"question": "q", "rubric": " "}', "line 1: rubric is no text; say what a good answer has"),
        ('{"question": "q", "rubric": ["a"]}', "line 1: rubric is no text"),
        ('{"question": "q", "rubric": "r", "answer": "a"}', "line 1 needs exactly one of answer, checks, call, tests, rubric"),
        (f'{GOOD}\n{{"question": "q", "rubric": "r"}}', "mixes answer, checks, call, tests, rubric; use one file for each"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_question_is_refused_in_the_plan(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"^eval\.tasks: .*{message}"):
        check(job(f"eval.tasks=[{file}]"))


def test_lines_are_read_as_editors_and_the_web_write_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    text = '{"question": "a\u2028b", "answer": "\u00e9"}'  # JSON takes this end of a line inside of a text
    file.write_bytes(f"\ufeff{text}\r\n\r\n{GOOD}".encode())
    first, second = questions.read(file)
    assert (first.question, first.answers, second.id) == ("a\u2028b", ["\u00e9"], "3")


@pytest.mark.parametrize(
    "key",
    [
        "eval.tasks", "bench.trace", "eval.texts.wikitext.path", "calib.texts.wikitext.path", "eval.stability.prompts",
        "eval.judge.questions",
    ],
)  # fmt: skip
def test_a_file_in_another_encoding_is_refused_in_the_plan(tmp_path: Path, key: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(GOOD.replace("Spain", "España").encode("latin-1"))
    asked = ["eval.judge.base_url=http://127.0.0.1:1/v1"] if "judge" in key else []
    with pytest.raises(ValueError, match=rf"^{key}: {file}: is no text in UTF-8 \(byte \d+: .*; save it as UTF-8$"):
        check(job(f"{key}=[{file}]" if key == "eval.tasks" else f"{key}={file}", *asked))


@pytest.mark.parametrize("override", ["eval.chat=false", "runtime=transformers"])
def test_what_is_asked_in_chat_alone_is_refused_where_nobody_chats(override: str) -> None:
    with pytest.raises(
        ValueError, match=rf"questions with call are asked in chat alone, and {override}.*; leave that out, or"
    ):
        check(job("eval.tasks=[data/tasks/tool_calls.jsonl]", override))
    check(job("eval.tasks=[data/tasks/short_answers.jsonl]", override))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML: while parsing a flow node"),
        ("task: x", "does not say where its data are; give dataset_kwargs"),
        ("- 1", "does not say where its data are"),
        ("", "does not say where its data are"),
        ("dataset_kwargs: {data_files: x.jsonl}", "does not say where its data are"),
    ],
)
def test_a_file_that_is_no_task_is_refused_in_the_plan(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"^eval\.tasks: {file}: {message}"):
        check(job(f"eval.tasks=[{file}]"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval.tasks=[/nowhere/mine.jsonl]"], r"eval\.tasks: /nowhere/mine\.jsonl: no such file"),
        (
            ["eval.chat=true", "runtime=transformers"],
            r"eval\.chat=true runtime=transformers: only a server has the chat API",
        ),
        (["eval.chat=false", "eval.system=x"], r"eval\.system: is said in chat alone"),
        (["eval.seeds=5"], r"eval\.seeds=5 eval\.temperature=0: .*use eval\.temperature=0\.7"),
        (["eval.answer_tokens=65536"], r"eval\.answer_tokens=65536: the server has a context of 2048 tokens"),
        (["+model.args.port=80"], r"model\.args\.port: use serve\.port"),
    ],
)
def test_what_no_model_could_answer_is_refused_in_the_plan(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(job(*overrides))


def test_calls_are_refused_where_the_server_would_parse_none() -> None:
    asked = ("eval.tasks=[data/tasks/tool_calls.jsonl]", "model=gemma3_270m", "runtime=vllm_cpu")
    with pytest.raises(
        ValueError, match=r"tool_calls\.jsonl has calls of functions, and the server would parse none; give this"
    ):
        check(job(*asked))
    check(job(*asked, *tool_calls.PARSER.split()))
    with pytest.raises(ValueError, match="would parse none"):
        check(job(*asked, "plan_only=true"))
    check(job(*asked, "stages=[quantize,inspect]"))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.jsonl").write_text(GOOD)
    with pytest.raises(ValueError, match=r"a/mine\.jsonl and .*b/mine\.jsonl would both be called mine; rename one"):
        check(job(f"eval.tasks=[{tmp_path}/a/mine.jsonl,{tmp_path}/b/mine.jsonl]"))
    (tmp_path / "gsm8k.jsonl").write_text(GOOD)
    with pytest.raises(ValueError, match=r"gsm8k and .*/gsm8k\.jsonl would both be called gsm8k; rename one"):
        check(job(f"eval.tasks=[gsm8k,{tmp_path}/gsm8k.jsonl]"))


@pytest.mark.parametrize("file", sorted((ROOT / "data/tasks").glob("*s.jsonl")), ids=lambda file: file.stem)
def test_committed_questions_are_ones(file: Path) -> None:
    assert len(questions.read(file)) > 20


def test_questions_about_documents_are_answered_by_their_documents() -> None:
    asked = questions.read(ROOT / "data/tasks/reading.jsonl")
    assert len(asked) > 10
    for question in asked:
        document = question.question.rpartition("Answer from the text above")[0]
        assert any(answer in document for answer in question.answers), question.id
        assert 14_000 < len(document) < 17_000, "about 4k tokens"


@pytest.mark.parametrize(
    ("check", "keeps", "breaks"),
    [
        ({"kind": "words", "at_most": 3}, "one two three", "one two three four"),
        ({"kind": "sentences", "at_least": 2, "at_most": 2}, "One. Two!", "One. Two? Three."),
        ({"kind": "sentences", "at_most": 1}, "It costs 3.50 euros.", "It costs. It does."),
        ({"kind": "paragraphs", "at_least": 2}, "a\n\nb", "a\nb"),
        ({"kind": "bullets", "at_least": 2, "at_most": 2}, "- a\n- b", "- a\n- b\n- c"),
        ({"kind": "bullets", "at_least": 1}, "1. a", "a - b"),
        ({"kind": "has", "text": "cat"}, "A Cat.", "concatenate"),
        ({"kind": "has", "text": "deep", "at_most": 1}, "deep", "deep, deep"),
        ({"kind": "lacks", "text": "water"}, "rain", "Waterfall"),
        ({"kind": "begins", "text": "Indeed"}, "Indeed so", "So, Indeed"),
        ({"kind": "ends", "text": "?"}, "So?", "So? Yes"),
        ({"kind": "upper_case"}, "CLOSED 24.", "Closed"),
        ({"kind": "lower_case"}, "no", "No"),
        ({"kind": "quoted"}, '"x"', '"x" he said'),
        ({"kind": "json", "keys": ["a"]}, '```json\n{"a": 1}\n```', 'Here: {"a": 1}'),
        ({"kind": "json"}, "[1]", "1, 2"),
    ],
)
def test_instructions_are_checked(check: dict[str, Any], keeps: str, breaks: str) -> None:
    assert instructions.scores([check], keeps) == {"all_kept": 1, "kept": 1}
    assert instructions.scores([check], breaks) == {"all_kept": 0, "kept": 0}
    assert instructions.scores([check], " ") == {"all_kept": 0, "kept": 0}, "an empty answer keeps nothing"


def test_lines_without_ids_of_their_own_have_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"id": null, "question": "q", "answer": "a"}\n' * 2)
    assert [question.id for question in questions.read(tmp_path / "mine.jsonl")] == ["1", "2"]


def test_flips_are_listed_worst_first_and_side_by_side() -> None:
    def record(item: str, seed: int, score: float, text: str) -> dict[str, Any]:
        return {
            "task": "t", "item": item, "seed": seed, "asked": f"question {item}", "wanted": ["x"], "text": text, "calls": [],
            "faults": [], "scores": {"contains": score},
        }  # fmt: skip

    bf16 = [record(item, seed, 1, "right") for item in "abc" for seed in (0, 1)] + [
        record("d", s, 0, "no") for s in (0, 1)
    ]
    own = [
        record("a", 0, 1, "right"),
        record("a", 1, 0, "half"),
        record("b", 0, 0, "x" * 900),
        record("b", 1, 0, "wrong"),
    ]
    own += [record("c", seed, 1, "right") for seed in (0, 1)] + [record("d", seed, 1, "yes") for seed in (0, 1)]
    found = flips.compare(own, bf16, {"t": "contains"})["t"]
    assert (found["items_lost"], found["items_won"], found["of"]) == (2, 1, 4)
    assert [(f["item"], f["loss"], f["bf16"]) for f in found["items"]] == [("b", 1, "right"), ("a", 0.5, "right")]
    assert found["items"][1]["model"] == "half", "the seed that lost"
    assert len(flips.shortened({"t": found})["t"]["items"][0]["model"]) < 700
