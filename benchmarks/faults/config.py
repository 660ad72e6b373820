"""Bad configuration: every value of the schema with what cannot be right, and the command lines of cases.py.

    .venv/bin/python benchmarks/faults/config.py [--examples 1500] [--every 1] [--seed 0] [--asked] [--all FILE]

Each must end with exit code 2 within five seconds of CPU, with one message that names a key of the command line; without a
traceback, without a file outside the run's folder and the store's `answers`, with nothing fetched. hypothesis draws the values
of the schema; what it finds is printed with the command. Ends with 1 if there is anything. `--all` writes every case and its
message as JSON lines, to be read by people.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import command  # first: it puts the checkout on sys.path
from cases import ASKED, CASES
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies
from schema import Leaf, is_enum, leaves

CPU = 5.0  # seconds
SKIPPED = ("plan_only", "debug", "store")  # plan_only=false runs the job; a store is made where one says


def arguments(case: str) -> list[str]:
    """A case as the shell would split it: only spaces between overrides do."""
    parts: list[str] = []
    for word in case.split(" "):
        starts = re.match(r"(--?\w[\w-]*$|[+~]*[\w.@/' -]*=)", word) or not parts or parts[-1].startswith("--")
        if starts and not _open(parts[-1] if parts else ""):
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    return parts


def _open(text: str) -> bool:
    """Whether a quote or a bracket is still to be closed."""
    return text.count("'") % 2 == 1 or text.count("{") > text.count("}") or text.count("[") > text.count("]")


def faults(place: command.Place, overrides: list[str], limit: float = CPU) -> tuple[list[str], command.Ended]:
    """What is wrong with the way in which a bad command line ends."""
    plan = [] if {"plan_only", "verify"} & {o.partition("=")[0] for o in overrides} else ["plan_only=true"]
    if not overrides[0].startswith("--") or overrides[0] == "--multirun":
        overrides = [*overrides, *plan]
    ended = place.run(*overrides)
    wrong = []
    if ended.code != 2:
        wrong.append(f"exit code {ended.code}")
    if "Traceback" in ended.output:
        wrong.append("traceback")
    if ended.seconds > limit:
        wrong.append(f"{ended.seconds:.1f} s of CPU")
    if left := [file for file in ended.left if not file.startswith("store/answers/")]:
        wrong.append(f"left {left[0]}")
    message = _message(ended.output)
    if ended.code == 2 and not _named(message, overrides):
        wrong.append("the message names no key")
    if ended.code == 2 and len(message) > 2000:
        wrong.append(f"a message of {len(message)} characters")
    if [c for c in ended.output if not c.isprintable() and c not in "\n\t\r"]:
        wrong.append("control characters in the output")
    return wrong, ended


def _message(output: str) -> str:
    """The refusal: its line, or what argparse says."""
    lines = [line for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "refused:" in line or "error:" in line), "")


def _named(message: str, overrides: list[str]) -> bool:
    """Whether it names a key, an option of the command line, or what was to be a key."""
    keys = [re.split(r"[= ]", o.lstrip("+~"))[0] for o in overrides if o != "plan_only=true"]
    words = [word for key in keys for word in re.split(r"[./@]", key)]
    return any(word.lstrip("-") in message for word in words if word.strip("-")) or any(o in message for o in overrides)


def wrong_values(leaf: Leaf) -> strategies.SearchStrategy[str]:
    """What cannot be right for this value, whatever else the job says."""
    kinds, pools = leaf.kinds, []
    scalars = kinds & {int, float, bool, str} or any(map(is_enum, kinds))
    if scalars:
        pools.append(strategies.sampled_from(["[a]", "[1]", "[[]]", "{a: 1}", "{a: {b: c}}"]))
    if kinds & {int, float, bool} or any(map(is_enum, kinds)):
        pools.append(strategies.sampled_from(["''", "' '", "abc", "'日本語'", "'1 2'", "0x10g", "'[/b]'", "--", "'²'"]))
    if int in kinds:
        pools += [strategies.sampled_from(["1.5", "nan", "inf", "-inf", "1e400", "true", "-1.0", "1_0_"])]
    if bool in kinds:
        pools.append(strategies.integers().filter(lambda n: n not in (0, 1)).map(str))
        pools.append(strategies.sampled_from(["1.5", "nan", "null"]))
    if float in kinds:
        pools.append(strategies.sampled_from(["nan", "inf", "-inf", "1e400"]))
    if kinds & {int, float} and leaf.bounds and (leaf.bounds.at_least is not None or leaf.bounds.above is not None):
        least = int(leaf.bounds.at_least if leaf.bounds.at_least is not None else leaf.bounds.above or 0)
        pools.append(strategies.integers(max_value=least - 1).map(str))
        pools.append(strategies.integers(min_value=10**10).map(str))
    if str in kinds:
        unprintable = strategies.text("\x00\x07\x1b\x7f\u200b\u202e\u2028", min_size=1, max_size=3)
        pools.append(unprintable.map(lambda text: f"'a{text}b'"))
        pools.append(strategies.just("x" * 5000))
        if leaf.bounds and leaf.bounds.non_empty:
            pools.append(strategies.text(" \t\n", max_size=3).map(lambda blank: f"'{blank}'"))
    if list in kinds:
        pools.append(
            strategies.sampled_from(["1", "abc", "true", "''", "{a: b}", "[[a]]", "[[1],[2]]", "[{a: 1}]", "[null]"])
        )
        if leaf.entry & {int, float}:
            pools.append(strategies.sampled_from(["[abc]", "[nan]", "[inf]", "['']", "[true]", "[1,[1]]"]))
    if dict in kinds:
        pools.append(strategies.sampled_from(["1", "abc", "true", "''", "[a]", "[]"]))
    if type(None) not in kinds:
        pools.append(strategies.just("null"))
    return strategies.one_of(pools)


def drawn() -> strategies.SearchStrategy[str]:
    """An override whose value cannot be right."""
    every = [leaf for leaf in leaves() if leaf.key not in SKIPPED and not _any(leaf)]
    return strategies.sampled_from(every).flatmap(
        lambda leaf: wrong_values(leaf).map(lambda value: f"{leaf.key}={value}")
    )


def _any(leaf: Leaf) -> bool:
    """A library's own options: only the library can say what is wrong."""
    return (
        dict not in leaf.kinds and not leaf.kinds & {int, float, bool, str, list} and not any(map(is_enum, leaf.kinds))
    )


def by_hand(asked: bool) -> Iterator[tuple[str, str, float]]:
    """Kind, case and the CPU seconds that it may take."""
    for kind, cases in CASES.items():
        yield from ((kind, case, CPU) for case in cases)
    if asked:
        yield from (("asked of an environment", case, 60.0) for case in ASKED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1500)
    parser.add_argument("--every", type=int, default=1, help="of the command lines written by hand, each so many-th")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--asked", action="store_true", help="also what vLLM and lm-eval are asked for")
    parser.add_argument("--all", type=Path)
    options = parser.parse_args()
    tried, found = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        place, record = command.Place(Path(folder)), options.all and options.all.open("w")

        def one(kind: str, overrides: list[str], limit: float = CPU) -> None:
            wrong, ended = faults(place, overrides, limit)
            tried[kind] += 1
            if record:
                entry = {
                    "kind": kind,
                    "arguments": overrides,
                    "wrong": wrong,
                    "code": ended.code,
                    "output": ended.output[-3000:],
                }
                record.write(json.dumps({**entry, "seconds": round(ended.seconds, 2)}, ensure_ascii=False) + "\n")
                record.flush()
            if wrong:
                found[kind] += 1
                print(
                    f"{kind}: {shlex.join(overrides)[:300]}: {', '.join(wrong)}: {_message(ended.output)[:300]}",
                    flush=True,
                )

        for kind, case, limit in list(by_hand(options.asked))[:: options.every]:
            one(kind, arguments(case), limit)

        @seed(options.seed)
        @settings(
            max_examples=max(options.examples, 1), database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(drawn())
        def schema(override: str) -> None:
            one("drawn from the schema", [override])

        if options.examples:
            schema()
        fetched = (place.store / "fetch").exists()
    for kind, count in tried.items():
        print(f"{kind}: {count} tried, {found[kind]} not refused as they should be")
    print(f"{tried.total()} tried, {found.total()} found; {'something was' if fetched else 'nothing was'} fetched")
    return 1 if found or fetched else 0


if __name__ == "__main__":
    sys.exit(main())
