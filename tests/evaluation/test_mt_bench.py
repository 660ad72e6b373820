"""A judge of chat behind a real HTTP server: what it is asked, what is made of its words, and what happens where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.jobs import job
from support.judge_api import Api, completion, serving

from qforge.evaluation import chat_judge, mt_bench
from qforge.json_files import write_json
from qforge.pipeline import judging

TURNS = ["Name a fruit.", "And another."]


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as served:
        yield served


def made(api: Api, *overrides: str) -> Any:
    return job(f"eval.judge.base_url=http://127.0.0.1:{api.server_port}/v1", "eval.judge.model=m", *overrides)


def judge(api: Api) -> chat_judge.Judge:
    return chat_judge.Judge(made(api).eval.judge, pauses=(0.0, 0.0))


def measured(api: Api, folder: Path, own: str, other: str | None) -> dict[str, Any]:
    """One conversation, of which the checkpoint answers both turns with `own`, and bf16 with `other`."""
    (folder / "questions.jsonl").write_text(json.dumps({"turns": TURNS}))
    settings = made(api, f"eval.judge.questions={folder}/questions.jsonl").eval.judge
    served = SimpleNamespace(parallel=2, chat=lambda messages, tokens: own)
    if other:
        write_json(folder / "bf16.json", [{"turns": TURNS, "answers": [other, other]}])
    given = str(folder / "bf16.json") if other else None
    return mt_bench.measure(settings, served, folder, given, judge(api))  # type: ignore[arg-type]


def prefers(word: str) -> Callable[[str], tuple[int, str]]:
    """A judge who finds the assistant better whose answers have this word, wherever it stands, and rates with 8."""

    def says(text: str) -> tuple[int, str]:
        if "two AI assistants" not in text:
            return 200, completion("Rating: [[8]]")
        shown = text.rpartition(
            "[The Start of Assistant B" if "[User Question]" in text else "<|The Start of Assistant B"
        )
        return 200, completion(f"[[{'B' if word in shown[2] else 'A'}]]")

    return says


def test_each_answer_is_rated_and_each_pair_is_shown_in_both_orders(api: Api, tmp_path: Path) -> None:
    api.says = prefers("pear")
    found = measured(api, tmp_path, "a plum", "a pear")
    assert (found["mean"], found["unrated"], found["ratings"]) == (8, 0, [[8, 8]])
    assert found["pairs"] == {
        "of": 2, "won": 0, "lost": 2, "tied": 0, "undecided": 0, "agreement": 1, "choices": [["B", "A"], ["B", "A"]],
    }  # fmt: skip
    assert len(api.sent) == mt_bench.cost(made(api, "eval.judge.limit=1").eval.judge, compares=True).requests == 6
    assert measured(api, tmp_path, "a pear", "a plum")["pairs"]["won"] == 2
    assert json.loads((tmp_path / mt_bench.FILE).read_text()) == [{"turns": TURNS, "answers": ["a pear", "a pear"]}]


def test_a_judge_who_likes_the_first_contradicts_itself_and_that_is_a_tie(api: Api, tmp_path: Path) -> None:
    api.says = lambda text: (200, completion("I like it. [[A]]" if "two AI" in text else "[[3]]"))
    pairs = measured(api, tmp_path, "a plum", "a pear")["pairs"]
    assert (pairs["won"], pairs["lost"], pairs["tied"], pairs["agreement"]) == (0, 0, 2, 0)


def test_a_judge_who_sees_no_difference_says_so_in_both_orders(api: Api, tmp_path: Path) -> None:
    api.says = lambda text: (200, completion("[[C]]" if "two AI" in text else "[[3]]"))
    pairs = measured(api, tmp_path, "a plum", "a plum")["pairs"]
    assert (pairs["tied"], pairs["agreement"]) == (2, 1)


def test_bf16_alone_is_rated_and_compared_with_nothing(api: Api, tmp_path: Path) -> None:
    found = measured(api, tmp_path, "a plum", None)
    assert (found["pairs"], found["mean"], len(api.sent)) == (None, 5, 2)


def test_nonsense_is_counted_and_not_guessed_at(api: Api, tmp_path: Path) -> None:
    api.says = lambda text: (200, completion("As a language model I like plums."))
    found = measured(api, tmp_path, "a plum", "a pear")
    assert (found["mean"], found["unrated"], found["ratings"]) == (None, 2, [[None, None]])
    assert (found["pairs"]["undecided"], found["pairs"]["agreement"]) == (2, None)
    assert (found["unanswered"], found["error"], found["cut_off"]) == (0, "", 0)


def test_a_judge_that_comes_to_no_end_is_counted(api: Api, tmp_path: Path) -> None:
    cut = {"choices": [{"message": {"content": "It is rather"}, "finish_reason": "length"}]}
    api.says = lambda text: (200, json.dumps(cut))
    found = measured(api, tmp_path, "a plum", "a pear")
    assert (found["unrated"], found["pairs"]["undecided"], found["cut_off"]) == (2, 2, 6)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ((500, "out of memory"), "500 Internal Server Error: out of memory"),
        ((200, "<html>"), "Expecting value"),
        ((200, '{"choices": []}'), "no chat completion"),
    ],
)
def test_a_judge_that_goes_away_costs_its_ratings_alone(
    api: Api, tmp_path: Path, reply: tuple[int, str], error: str
) -> None:
    api.says = lambda text: (200, completion("[[8]]")) if "[Question]" in text else reply
    found = measured(api, tmp_path, "a plum", None)
    assert found["ratings"] == [[8, None]]
    assert found["unanswered"] == 1
    assert found["error"].startswith(error)
    assert len(api.sent) == 4, "sent again twice"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, "no"), "model 'm' does not answer: .*401"),
        ((200, "<html>"), "model 'm' answers, but not as OpenAI's chat API does"),
        (
            (200, completion("I am happy to help!")),
            r"model 'm' was told to say \[\[5\]\] and said 'I am happy to help!'",
        ),
    ],
)
def test_a_judge_of_no_use_is_refused_before_anything_is_fetched(
    api: Api, reply: tuple[int, str], message: str
) -> None:
    api.says = lambda text: reply
    with pytest.raises(ValueError, match=rf"eval\.judge\.base_url=http://127\.0\.0\.1:{api.server_port}/v1: {message}"):
        judging.greet(made(api))


@pytest.mark.parametrize("line", ["{}", '{"turns": ["one"]}', '{"turns": ["one", 2]}', "[1]"])
def test_a_question_without_two_turns_is_refused_in_the_plan(tmp_path: Path, line: str) -> None:
    (tmp_path / "mine.jsonl").write_text(f"{json.dumps({'turns': TURNS})}\n{line}\n")
    asked = job("eval.judge.base_url=http://127.0.0.1:1/v1", f"eval.judge.questions={tmp_path}/mine.jsonl")
    with pytest.raises(ValueError, match=r"^eval\.judge\.questions: .*mine\.jsonl line 2: turns are the two texts"):
        judging.notes(asked)


def test_cost_and_time_are_said_before_it_begins(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    whole = made(api, "method=rtn")
    (note,) = judging.notes(whole)
    assert note.startswith("eval.judge: m is asked in 640 requests, at most "), (
        "80 questions: 2 of bf16, 2 and 4 of the model"
    )
    assert "bf16 rated, then this checkpoint, rated and compared" in note
    assert "160 requests" in judging.notes(made(api, "method=bf16"))[0]
    assert judging.notes(job()) == []
    assert judging.notes(made(api, "eval.judge.questions=null")) == []
    judging.greet(whole)
    said = capsys.readouterr().out
    assert "rates an example with 5, 4 requests at once in " in said
    assert "at that pace about" in said
    assert len(api.sent) == 5, "greeted, and shown an example as often as it will be asked at once"


def test_what_a_judge_makes_of_an_example_is_said_or_refused(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.says = lambda text: (200, completion("I like it." if "[Question]" in text else "[[5]]"))
    judging.greet(made(api))
    assert "gives an example no rating, 4 requests at once in " in capsys.readouterr().out
    monkeypatch.setenv(chat_judge.KEY, "hidden")
    api.says = lambda text: (
        (400, "hidden:\n 512 tokens are too many") if "[Question]" in text else (200, completion("[[5]]"))
    )
    with pytest.raises(
        ValueError,
        match=r"model 'm' .* rates no example: 400 Bad Request: \.\.\.: 512 tokens are too many; mend that, or give another$",
    ):
        judging.greet(made(api))
