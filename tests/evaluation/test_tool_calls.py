"""Calls of functions, held against their schemas and the calls that are wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qforge.evaluation import questions, tool_calls

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "days": {"type": "integer"},
        },
        "required": ["city"],
    },
}
WANTED = {"name": "get_weather", "arguments": {"city": "Oslo"}}


def called(*calls: tuple[str, Any], wanted: dict[str, Any] | None = WANTED) -> tuple[float, ...]:
    made = [{"name": name, "arguments": args if isinstance(args, str) else json.dumps(args)} for name, args in calls]
    return tuple(tool_calls.scores([WEATHER], wanted, made).values())


def test_calls_are_scored_by_function_schema_and_arguments() -> None:
    assert called(("get_weather", {"city": " oslo", "unit": "c"})) == (1, 1, 1), "neither case nor white space counts"
    assert called(("get_weather", {"city": "Bergen"})) == (0, 1, 1)
    assert called(("get_weather", {"city": "Oslo", "unit": "k"})) == (0, 1, 0), "no value of the enum"
    assert called(("get_weather", {"city": "Oslo", "days": True})) == (0, 1, 0), "true is no integer"
    assert called(("get_weather", {"unit": "c"})) == (0, 1, 0)
    assert called(("get_weather", "{broken")) == (0, 1, 0)
    assert called(("get_time", {})) == (0, 0, 0)
    assert called(("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Oslo"})) == (0, 1, 1), "once is wanted"
    assert called() == (0, 0, 0)
    assert called(wanted=None) == (1, 1, 1)
    assert called(("get_weather", {"city": "Oslo"}), wanted=None) == (0, 0, 1)


def test_functions_may_be_written_as_requests_have_them(tmp_path: Path) -> None:
    line = {"question": "q", "tools": [{"type": "function", "function": WEATHER}], "call": WANTED}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line))
    (question,) = questions.read(tmp_path / "mine.jsonl")
    assert question.tools == [WEATHER]


@pytest.mark.parametrize(
    ("wanted", "given", "right"),
    [
        ({"to": {"city": "Oslo"}}, {"to": {"city": "oslo "}}, 1),
        ({"to": {"city": {"any_of": ["Oslo", "Bergen"]}}}, {"to": {"city": "Bergen"}}, 1),
        ({"to": {"city": "Oslo"}}, {"to": {"city": "Oslo", "street": "x"}}, 0),
        ({"units": ["C"]}, {"units": ["c"]}, 1),
    ],
)
def test_values_within_values_are_held_against_each_other(wanted: Any, given: Any, right: float) -> None:
    call = {"name": "f", "arguments": wanted}
    assert tool_calls.unreachable({"name": "f"}, wanted) is None
    assert tool_calls.scores([{"name": "f"}], call, [{"name": "f", "arguments": given}])["right_call"] == right
