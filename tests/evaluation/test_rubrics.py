"""Questions with a rubric: what the judge is shown, what its ratings become, and what happens where it gives none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.jobs import job
from support.judge_api import Api, completion, serving
from support.measured import results

from qforge.evaluation import chat_judge, flips, own_tasks, rubrics
from qforge.evaluation.journal import Journal
from qforge.evaluation.questions import Question
from qforge.judge import conditions, verdict
from qforge.pipeline import judging
from qforge.pipeline.asked import judgements
from qforge.pipeline.checks import check
from qforge.pipeline.run import Run

LINES = [
    {"question": f"Name a fruit that begins with {letter}.", "rubric": f"A fruit that begins with {letter}, and its colour."}
    for letter in "abcd"
]  # fmt: skip
GOOD, POOR, NONSENSE = "It is green.", "I do not know.", "Fruit fruit."


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as served:
        served.says = says
        yield served


def says(shown: str) -> tuple[int, str]:
    """10 for a good answer, 1 for a poor one, and no rating for nonsense."""
    answer = shown.partition("Assistant's Answer]\n")[2]
    words = {GOOD: "Rating: [[10]]", POOR: "Rating: [[1]]", "It is a fruit.": "Well. Rating: [[5.5]]"}
    return 200, completion(next((said for text, said in words.items() if text in answer), "As a language model I ..."))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)))
    return file


def made(api: Api, file: Path, *overrides: str) -> Any:
    url = f"eval.judge.base_url=http://127.0.0.1:{api.server_port}/v1"
    return job(url, "eval.judge.model=m", "eval.judge.questions=null", f"eval.tasks=[{file}]", *overrides)


def asked(api: Api, file: Path, by_seed: list[list[str]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The task's summary and records where a model answers so, by seed and question."""
    settings = made(api, file, f"eval.seeds={len(by_seed)}", "eval.temperature=0.7").eval
    texts = [text for answers in by_seed for text in answers]
    answers = [{"text": text, "calls": [], "faults": [], "tokens": 3} for text in texts]
    chat: Any = SimpleNamespace(body=lambda messages, seed: {}, ask=lambda bodies, what: answers)
    journal = file.with_name("judgements.jsonl")
    journal.touch()
    return own_tasks.run(settings, str(file), SimpleNamespace(), None, chat, journal)  # type: ignore[arg-type]


def test_the_judge_is_shown_question_rubric_and_answer_and_its_rating_is_a_score(api: Api, mine: Path) -> None:
    found, records = asked(api, mine, [[GOOD, POOR, "It is a fruit.", GOOD]])
    assert found["metrics"] == {"rubric": 0.625}, "1, 0, a half and 1"
    assert found["per_sample"] == {"rubric": [1, 0, 0.5, 1]}
    assert (found["judged"], found["asked"]["answers"]) == ("rubric", 4)
    assert found["rated"] == {"judge": "m", "unrated": 0, "unanswered": 0, "error": "", "cut_off": 0}
    shown = next(text for text in api.sent if "begins with a." in text)
    assert all(text in shown for text in (LINES[0]["question"], LINES[0]["rubric"], GOOD, '"Rating: [[5]]"'))
    assert records[2]["judgement"] == {"said": "Well. Rating: [[5.5]]", "rating": 5.5}
    assert (records[2]["wanted"], records[2]["scores"]) == (LINES[2]["rubric"], {"rubric": 0.5})


def test_the_same_answer_is_judged_once_by_seeds_and_by_models(api: Api, mine: Path) -> None:
    asked(api, mine, [[GOOD] * 4, [GOOD, GOOD, POOR, POOR]])
    assert len(api.sent) == 6
    again, _ = asked(api, mine, [[GOOD] * 4, [POOR, GOOD, POOR, GOOD]])
    assert len(api.sent) == 7, "of the other model one answer is new"
    assert again["per_sample"] == {"rubric": [0.5, 1, 0.5, 1]}


def test_what_was_judged_lies_in_the_store_by_the_judge(api: Api, mine: Path, tmp_path: Path) -> None:
    def lies(*overrides: str) -> Path:
        return judgements(Run(made(api, mine, f"store={tmp_path}/store", *overrides), tmp_path / "run"))

    assert lies("method=bf16") == lies("method=rtn", "eval.seeds=3", "eval.temperature=0.7")
    assert lies() != lies("eval.judge.model=another")
    assert not lies().read_text()


def test_an_answer_without_text_is_the_worst_and_not_shown(api: Api, mine: Path) -> None:
    found, _ = asked(api, mine, [[" \n", GOOD, GOOD, ""]])
    assert found["per_sample"] == {"rubric": [0, 1, 1, 0]}
    assert (len(api.sent), found["rated"]["unrated"]) == (2, 0)


def compared(own: dict[str, Any], other: dict[str, Any]) -> list[verdict.Finding]:
    sides = [results(), results()]
    for side, task in zip(sides, (own, other), strict=True):
        side["evaluate"]["tasks"] = {"mine": task}
    conditions.refuse_different(*sides)
    return list(verdict.findings("task", job("gate=chat").gate.criteria["task"], *sides))


def test_a_question_without_a_rating_is_left_out_on_both_sides(api: Api, mine: Path) -> None:
    """Of the other three one lost: pairs by item, with a mean over the seeds."""
    other, theirs = asked(api, mine, [[GOOD] * 4, [GOOD] * 4])
    own, records = asked(api, mine, [[GOOD, POOR, POOR, NONSENSE], [GOOD, GOOD, POOR, GOOD]])
    assert own["per_sample"] == {"rubric": [1, 0.5, 0, None]}
    assert own["metrics"] == {"rubric": 0.5}
    assert own["rated"]["unrated"] == 1
    (found,) = compared(own, other)
    assert (found.of, found.value, found.measured, found.baseline) == ("mine rubric", 50, 50, 100)
    assert found.reason.startswith("1 of 4 questions not rated, 2 lower, 0 higher of 3, bootstrap p = ")
    lost = flips.compare(records, theirs, {"mine": "rubric"})["mine"]
    assert (lost["items_lost"], lost["items_won"], lost["of"]) == (2, 0, 3)
    assert [(item["item"], item["wanted"]) for item in lost["items"]] == [
        ("3", LINES[2]["rubric"]),
        ("2", LINES[1]["rubric"]),
    ]


def test_ratings_at_the_ends_alone_are_passes_and_fails(api: Api, mine: Path) -> None:
    other, _ = asked(api, mine, [[GOOD] * 4])
    own, _ = asked(api, mine, [[GOOD, GOOD, GOOD, POOR]])
    (found,) = compared(own, other)
    assert found.reason.startswith("1 lost, 0 won of 4, McNemar p = ")


def test_a_judge_that_rates_nothing_leaves_the_task_undecided(api: Api, mine: Path) -> None:
    other, theirs = asked(api, mine, [[GOOD] * 4])
    own, records = asked(api, mine, [[NONSENSE] * 4])
    assert (own["metrics"], own["rated"]["unrated"]) == ({}, 4)
    for sides in ((own, other), (other, own)):
        (found,) = compared(*sides)
        assert (found.verdict, found.measured, found.baseline) == ("inconclusive", None, None)
    assert flips.compare(records, theirs, {"mine": "rubric"})["mine"]["of"] == 0
    asked(api, mine, [[NONSENSE] * 4])
    assert len(api.sent) == 12, "what has no rating is not kept, and asked again"


def test_a_judge_that_goes_away_costs_its_ratings_alone(api: Api, tmp_path: Path) -> None:
    api.says = lambda shown: (500, "out of memory") if POOR in shown else says(shown)
    judge = chat_judge.Judge(made(api, tmp_path / "x.jsonl").eval.judge, pauses=(0.0, 0.0))
    (tmp_path / "j").touch()
    question = Question("1", "q", "rubric", rubric="r")
    found = rubrics.judged(judge, Journal(tmp_path / "j"), [(question, POOR), (question, GOOD)], 1)
    assert [one["rating"] for one in found] == [None, 10]
    assert (judge.unanswered, judge.error) == (1, "500 Internal Server Error: out of memory")
    assert len(api.sent) == 4, "sent again twice"


def test_cost_and_time_are_said_before_it_begins(api: Api, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.says = lambda shown: (200, completion("[[5]]"))
    whole = made(api, mine, "method=rtn", "eval.seeds=3", "eval.temperature=0.7")
    (note,) = judging.notes(whole)
    assert note.startswith("eval.judge: m is asked in 24 requests, at most "), "four questions, three seeds, two models"
    assert "(the rubrics of mine: answers of bf16 and of this checkpoint, the same answer once)" in note
    assert "4 requests" in judging.notes(made(api, mine, "method=bf16"))[0]
    both = judging.notes(made(api, mine, "method=rtn", "eval.judge.questions=data/chat/mt_bench.jsonl"))
    assert ["640 requests" in both[0], "8 requests" in both[1]] == [True, True]
    judging.greet(whole)
    assert "at that pace about" in capsys.readouterr().out


def test_a_rubric_without_a_judge_or_without_chat_is_refused_in_the_plan(api: Api, mine: Path) -> None:
    check(made(api, mine))
    with pytest.raises(
        ValueError,
        match=r"^eval\.tasks: .*mine\.jsonl: a rubric needs a judge, and eval\.judge\.base_url is not given; give the address",
    ):
        check(job(f"eval.tasks=[{mine}]"))
    check(job(f"eval.tasks=[{mine}]", "stages=[quantize,inspect]"))
    with pytest.raises(
        ValueError, match=r"questions with rubric are asked in chat alone, and eval\.chat=false; leave that"
    ):
        check(made(api, mine, "eval.chat=false"))


def test_a_judge_that_is_gone_is_asked_nothing_more(api: Api, tmp_path: Path) -> None:
    judge = chat_judge.Judge(made(api, tmp_path / "x.jsonl").eval.judge, pauses=())
    api.says = lambda text: (503, "busy")
    assert {judge.ask({"role": "user", "content": str(n)}) for n in range(chat_judge.GONE + 5)} == {""}
    assert (len(api.sent), judge.unanswered) == (chat_judge.GONE, chat_judge.GONE + 5)


@pytest.mark.parametrize(
    ("given", "slept"), [({"Retry-After": "7.5"}, 7.5), ({"Retry-After": "3600"}, chat_judge.LONGEST), ({}, 0.5),
                         ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.5)],
)  # fmt: skip
def test_a_judge_that_is_busy_is_left_as_long_as_it_asks(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], slept: float
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(chat_judge.time, "sleep", pauses.append)
    api.headers = given
    api.says = lambda text: (429, "slow down") if len(api.sent) == 1 else (200, completion("[[5]]"))
    judge = chat_judge.Judge(made(api, tmp_path / "x.jsonl").eval.judge, pauses=(0.5,))
    assert judge.ask({"role": "user", "content": "q"}) == "[[5]]"
    assert (pauses, judge.unanswered) == ([slept], 0)


@pytest.mark.parametrize(
    ("said", "rated"),
    [
        ("<think>At first [[3]].</think> Rating: [[8]]", 8),
        ('The form is "[[5]]", so: [[ 7.5 ]]', 7.5),
        ("[[0]]", None),
        ("[[8]] or rather [[11]]", None),
        ("7/10", None),
    ],
)
def test_the_last_rating_counts(said: str, rated: float | None) -> None:
    assert chat_judge.rating(said) == rated


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        (
            "http://host:port/v1",
            "k",
            r"eval\.judge\.base_url=http://host:port/v1: model 'm' does not answer: Invalid port",
        ),
        ("http://127.0.0.1:9/v1", "s\u00e9same", "^QFORGE_JUDGE_KEY: .* none of ASCII; copy it again$"),
    ],
)
def test_an_address_or_a_key_that_cannot_be_used_is_refused(
    url: str, key: str, message: str, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(chat_judge.KEY, key)
    settings = made(api, tmp_path / "x.jsonl").eval.judge
    settings.base_url = url
    with pytest.raises(ValueError, match=message):
        chat_judge.Judge(settings).greet()
