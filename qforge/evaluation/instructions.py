"""Instructions that a program can check, in the way of IFEval (Zhou et al. 2023): whether an answer keeps to them, good or bad.

A question's `checks` are a list of {"kind": KIND, ...}; KINDS has the kinds and what else each needs. `all_kept` is IFEval's
strict accuracy by prompt, `kept` the share of a question's checks that hold. Words are what white space parts, sentences end in
. ! or ? before white space or the end, paragraphs are parted by empty lines.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

Check = dict[str, Any]
BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.M)
SENTENCE = re.compile(r"[^.!?\s][^.!?]*[.!?]+(?=\s|$|[\"')\]])")


def scores(checks: list[Check], answer: str) -> dict[str, float]:
    """all_kept and kept. An empty answer keeps nothing."""
    kept = [bool(answer.strip()) and holds(check, answer.strip()) for check in checks]
    return {"all_kept": float(all(kept)), "kept": sum(kept) / len(kept)}


def holds(check: Check, answer: str) -> bool:
    """Whether an answer that is not empty keeps to one check. Raises ValueError for one that there is not."""
    refuse(check)
    return KINDS[check["kind"]][1](check, answer)


def refuse(check: Check) -> None:
    """Raises ValueError for a check of no known kind, and for one without what it needs."""
    kind = check["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"checks: kind {kind!r:.100} is unknown; choose from {', '.join(KINDS)}")
    needed, optional = KINDS[kind][0], OPTIONAL.get(kind, ())
    if missing := [name for name in needed if name not in check]:
        raise ValueError(f"checks: {kind} needs {missing[0]}")
    if unknown := [name for name in check if name not in ("kind", *needed, *optional)]:
        takes = f"it takes {', '.join((*needed, *optional)) or 'nothing else'}"
        raise ValueError(f"checks: {unknown[0]!r:.100} of {kind} is unknown; {takes}")
    if not isinstance(check.get("text", "x"), str) or not check.get("text", "x"):
        raise ValueError(f"checks: text of {kind} is no text; give one")
    if not isinstance(keys := check.get("keys", []), list) or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"checks: keys of {kind} is no list of texts; give one")
    bounds = [check.get("at_least", 0), check.get("at_most", math.inf)]
    if odd := [bound for bound in bounds if isinstance(bound, bool) or not isinstance(bound, int | float) or bound < 0]:
        raise ValueError(f"checks: {json.dumps(odd[0]):.100} of {kind} is no number from 0 on; use one")
    if bounds[0] > bounds[1]:
        raise ValueError(f"checks: at_least={bounds[0]} at_most={bounds[1]} of {kind}: no answer keeps both; mend one")


def _within(check: Check, count: int) -> bool:
    return bool(check.get("at_least", 0) <= count <= check.get("at_most", count))


def _words(check: Check, answer: str) -> bool:
    return _within(check, len(answer.split()))


def _sentences(check: Check, answer: str) -> bool:
    return _within(check, len(SENTENCE.findall(answer)))


def _paragraphs(check: Check, answer: str) -> bool:
    return _within(check, len([part for part in re.split(r"\n\s*\n", answer) if part.strip()]))


def _bullets(check: Check, answer: str) -> bool:
    return _within(check, len(BULLET.findall(answer)))


def _has(check: Check, answer: str) -> bool:
    """As a word of its own, as often as at_least and at_most say, by default once or more."""
    found = len(re.findall(rf"(?<!\w){re.escape(check['text'])}(?!\w)", answer, re.IGNORECASE))
    return _within({"at_least": 1, **check}, found)


def _lacks(check: Check, answer: str) -> bool:
    return check["text"].casefold() not in answer.casefold()


def _begins(check: Check, answer: str) -> bool:
    return answer.startswith(check["text"])


def _ends(check: Check, answer: str) -> bool:
    return answer.endswith(check["text"])


def _upper(check: Check, answer: str) -> bool:
    return answer == answer.upper() and any(c.isalpha() for c in answer)


def _lower(check: Check, answer: str) -> bool:
    return answer == answer.lower() and any(c.isalpha() for c in answer)


def _quoted(check: Check, answer: str) -> bool:
    return len(answer) > 1 and answer[0] == answer[-1] == '"'


def _json(check: Check, answer: str) -> bool:
    """An object or a list, alone or in one block of code, with every key that `keys` names."""
    block = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", answer, re.S)
    try:
        value = json.loads(block[1] if block else answer)
    except json.JSONDecodeError:
        return False
    keys = check.get("keys", [])
    if isinstance(value, list):
        return not keys
    return isinstance(value, dict) and all(key in value for key in keys)


COUNTED = ("at_least", "at_most")
# What each kind may have besides
OPTIONAL = {**dict.fromkeys(("words", "sentences", "paragraphs", "bullets", "has"), COUNTED), "json": ("keys",)}
# What each kind needs besides, and the function
KINDS: dict[str, tuple[tuple[str, ...], Callable[[Check, str], bool]]] = {
    "words": ((), _words),
    "sentences": ((), _sentences),
    "paragraphs": ((), _paragraphs),
    "bullets": ((), _bullets),
    "has": (("text",), _has),
    "lacks": (("text",), _lacks),
    "begins": (("text",), _begins),
    "ends": (("text",), _ends),
    "upper_case": ((), _upper),
    "lower_case": ((), _lower),
    "quoted": ((), _quoted),
    "json": ((), _json),
}
