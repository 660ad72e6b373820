"""Questions of the user's own: a file of JSON Lines, each a question and what its answer is held against.

    {"question": "Which port does the service listen on?", "answer": "8443"}

`answer` may be a list, of which the best counts. Instead of it, `checks` says what the answer must keep to (instructions.py),
`tools` and `call` which function must be called (tool_calls.py), `tests` the Python that its code must pass (sandbox.py),
`rubric` what a good answer has, of which a judge decides (rubrics.py).
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qforge.config import given_files
from qforge.evaluation import instructions, tool_calls

KEY = "eval.tasks"
ENDING = ".jsonl"
EXAMPLE = '{"question": "...", "answer": "..."}'
ANSWER = "answer"  # the kind that a base model can be asked, too
RUBRIC = "rubric"  # the kind that a judge is needed for
KINDS = (ANSWER, "checks", "call", "tests", RUBRIC)  # what a question is held against
KEYS = ("id", "question", "tools", *KINDS)


@dataclass(frozen=True)
class Question:
    """One line. `kind` is what it is held against, one of KINDS."""

    id: str  # its own, else the number of its line
    question: str
    kind: str
    answers: list[str] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    call: dict[str, Any] | None = None  # none: no function is to be called
    tests: str = ""
    rubric: str = ""


def name_of(task: str) -> str:
    """What tables call a file of questions."""
    return Path(task).stem


def read(file: Path, limit: int | None = None) -> list[Question]:
    """The questions of a file, the first `limit` of them. Raises ValueError for a line that is none: where, and the fix."""
    lines = given_files.json_lines(file, KEY, EXAMPLE)
    if not lines:
        raise ValueError(f"{KEY}: {file} has no line; give one question a line, {EXAMPLE}")
    questions = [_question(where, number, content) for number, where, content in lines]
    if len({question.kind for question in questions}) > 1:
        raise ValueError(f"{KEY}: {file} mixes {', '.join(KINDS)}; use one file for each")
    first: dict[str, int] = {}
    for (number, where, _), question in zip(lines, questions, strict=True):
        if (other := first.setdefault(question.id, number)) != number:
            raise ValueError(
                f"{where}: its id, {question.id}, is that of line {other}, too (without one it is the line's number); give "
                "each its own"
            )
    return questions[:limit]


def _question(where: str, number: int, content: Any) -> Question:
    if not isinstance(content, dict):
        raise ValueError(f"{where} is no object; use {EXAMPLE}")
    if unknown := [key for key in content if key not in KEYS]:
        raise ValueError(f"{where}: {unknown[0]!r:.100} is unknown; a line has {', '.join(KEYS)}")
    asked, kinds = content.get("question"), [kind for kind in KINDS if kind in content]
    if not isinstance(asked, str) or not asked.strip():
        raise ValueError(f"{where} has no question; use {EXAMPLE}")
    if len(kinds) != 1:
        raise ValueError(f"{where} needs exactly one of {', '.join(KINDS)}; use {EXAMPLE}")
    if "tools" in content and kinds != ["call"]:
        raise ValueError(
            f"{where} has tools and no call; give the call that is wanted (null: none), or leave tools out"
        )
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # a text that was cut in the middle of an emoji
        half = f"\\u{ord(error.object[error.start]):x}"
        raise ValueError(f"{where}: {half} is half of a character, which cannot be sent; mend the text") from None
    named = str(number if content.get("id") is None else content["id"])
    return Question(named, asked, kinds[0], **_held_against(where, kinds[0], content))


def _held_against(where: str, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    value = content[kind]
    if kind == ANSWER:
        answers = value if isinstance(value, list) else [value]
        if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise ValueError(f"{where}: answer is no text, and no list of texts; use {EXAMPLE}")
        return {"answers": answers}
    if kind == "checks":
        if not isinstance(value, list) or not all(isinstance(check, dict) and "kind" in check for check in value):
            raise ValueError(f'{where}: checks is no list of {{"kind": ...}}')
        if not value:
            raise ValueError(f'{where}: checks is empty, and every answer would keep to it; give one, {{"kind": ...}}')
        for check in value:
            try:
                instructions.refuse(check)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        return {"checks": value}
    if kind == "tests":
        if not isinstance(value, str) or "assert" not in value:
            raise ValueError(f"{where}: tests is no text with assert; give the lines of Python that must hold")
        try:
            ast.parse(value)
        except SyntaxError as error:
            raise ValueError(
                f"{where}: tests is no Python, and no answer would pass: {error.msg} (line {error.lineno} of tests); mend it"
            ) from None
        return {"tests": value}
    if kind == RUBRIC:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f'{where}: rubric is no text; say what a good answer has, {{"question": "...", "rubric": "..."}}'
            )
        return {"rubric": value}
    return _call(where, content.get("tools"), value)


def _call(where: str, tools: Any, value: Any) -> dict[str, Any]:
    if not isinstance(tools, list):
        raise ValueError(f"{where}: call needs tools, a list of functions as OpenAI's API has them")
    # as requests to that API have them: {"type": "function", "function": {...}}
    tools = [tool["function"] if isinstance(tool, dict) and "function" in tool else tool for tool in tools]
    try:
        for tool in tools:
            tool_calls.refuse(tool)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if value is None:
        return {"tools": tools, "call": None}
    if not (isinstance(value, dict) and isinstance(value.get("arguments"), dict) and "name" in value):
        raise ValueError(f'{where}: call is neither null nor {{"name": ..., "arguments": {{...}}}}')
    if value["name"] not in (names := [tool["name"] for tool in tools]):
        raise ValueError(
            f"{where}: call names {value['name']}, which tools does not have; use {' or '.join(names) or 'null'}"
        )
    if fault := tool_calls.unreachable(tools[names.index(value["name"])], value["arguments"]):
        raise ValueError(f"{where}: no call would be right: {fault}; mend call or the function's parameters")
    return {"tools": tools, "call": value}
