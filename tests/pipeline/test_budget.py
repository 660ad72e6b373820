"""Formats chosen by measurement: a real run on a small model, and the solver against every choice there is."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

from support.checkpoints import DENSE, checkpoint, in_quant
from support.command import Cli

SOLVE = """
import json, sys
from qforge.stages.allocation import chosen
print(json.dumps([chosen(parts, size) for parts, size in json.loads(sys.argv[1])]))
"""


def test_the_choice_is_the_best_of_all_that_fit() -> None:
    draw = random.Random(0)
    problems = []
    for _ in range(12):
        parts = [
            {name: [draw.randint(1, 40) * 1000, draw.random() * 10 ** -draw.randint(0, 6)] for name in "abc"}
            for _ in range(6)
        ]
        least = sum(min(size for size, _ in part.values()) for part in parts)
        problems.append((parts, least + draw.randint(0, 100_000)))
    solved = json.loads(in_quant("-c", SOLVE, json.dumps(problems)).stdout.splitlines()[-1])
    for (parts, size), names in zip(problems, solved, strict=True):

        def total(choice: tuple[str, ...], which: int, parts: list[dict[str, list[float]]] = parts) -> float:
            return sum(part[name][which] for part, name in zip(parts, choice, strict=True))

        fitting = [choice for choice in itertools.product("abc", repeat=6) if total(choice, 0) <= size]
        assert tuple(names) in fitting
        assert total(tuple(names), 1) <= min(total(choice, 1) for choice in fitting) + 1e-6


def test_a_size_is_spent_where_it_saves_most(cli: Cli, model: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", DENSE, model, files=1)
    given = (
        "model=local", "model.name=small", f"model.path={source}", "search=budget", "method.bits=15.6",
        "method.candidates=[bf16,w8a8,rtn:32]", "sensitivity.windows=1", "sensitivity.length=64", "stages=[quantize,inspect]",
    )  # fmt: skip
    done = cli.succeed(*given)
    said = done.json("budget")
    assert said["chosen"]["bits"] <= 15.6
    assert [point["bits"] for point in said["curve"]] == sorted(point["bits"] for point in said["curve"])
    losses = [point["added"] for point in said["curve"]]
    assert all(more <= less + 1e-9 for less, more in itertools.pairwise(losses))
    assert losses[-1] == 0  # everything in bf16, or as good
    for only in said["uniform"]:
        assert only["kl"] >= 0
        best = min(point["added"] for point in said["curve"] if point["bits"] <= only["bits"] + 0.04)
        assert best <= only["added"] + 1e-9
    for kept, only in zip(said["boundary"], said["uniform"], strict=True):
        assert (kept["bits"] > only["bits"], kept["added"] < only["added"]) == (True, True)
    planned = done.json("plan")
    assert planned["bits_per_weight"] <= 15.6
    assert planned["bits_per_weight"] == said["chosen"]["bits"]
    assert done.json("inspect")["faults"] == []
    refused = cli.inside(*given, "+method.formats.mlp=rtn")
    assert (refused.code, "method=budget: it chooses them" in refused.output) == (2, True)
    again = cli.succeed(*(o if not o.startswith("method.bits") else "method.bits=15.7" for o in given))
    assert again.output.count("= losses") == 2  # found in the store
