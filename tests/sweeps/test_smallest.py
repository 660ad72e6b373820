"""The smallest checkpoint that a gate accepts: which sizes are tried, and what is left of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import ROOT, Cli
from support.jobs import job

from qforge.json_files import read_json
from qforge.sweeps import smallest
from qforge.sweeps.smallest import Halving
from qforge.sweeps.stopping import Row

ASKED = ("model=qwen3_8b", "hw=h200", "gate=quality")


def row(bits: float, accepted: bool) -> Row:
    """A row of that size, whose quality criteria all came out like that."""
    made = copy.deepcopy(read_json(ROOT / "results" / "smollm2_135m-rtn-cpu.json"))
    for criterion in made["criteria"]:
        criterion["verdict"] = "pass" if accepted else "fail"
    made["size"] = {**made["size"], "bits_per_weight": bits}
    return made


def search(tmp_path: Path, rows: Callable[[float], Row], *start: str) -> Halving:
    """Search to the end, each job leaving the row of its size."""
    found = Halving([f"store={tmp_path}", *ASKED, *start], lambda overrides: job(*overrides), tmp_path, within=0.02)
    while step := found.next():
        folder = tmp_path / str(len(found.steps))
        folder.mkdir()
        step.start(folder)
        (folder / "row.json").write_text(json.dumps(rows(float(smallest.key_value(step.overrides, "method.bits")))))
        found.record(step)
    return found


def test_it_comes_within_two_percent_of_what_is_just_accepted(tmp_path: Path) -> None:
    found = search(tmp_path, lambda bits: row(bits - 0.01, bits >= 8.3))
    tried = [float(smallest.key_value(step.overrides, "method.bits")) for step in found.steps]
    assert tried[0] == pytest.approx(found.low, abs=0.001)
    assert found.best is not None
    best = found.best.row["size"]["bits_per_weight"]
    assert 8.29 <= best <= 8.29 * 1.02
    assert len(tried) <= 8
    smallest.write(tmp_path / "smallest.json", [found])
    (told,) = read_json(tmp_path / "smallest.json")["searches"]
    assert told["best"] == found.best.rung
    assert [step["quality"] for step in told["steps"]] == ["accept" if bits >= 8.3 else "reject" for bits in tried]


def test_it_ends_at_once_where_the_smallest_is_good_enough(tmp_path: Path) -> None:
    found = search(tmp_path, lambda bits: row(bits, True))
    assert len(found.steps) == 1
    assert found.best is found.steps[0]


@pytest.mark.parametrize("within", [0, -1, 1, "x"])
def test_a_search_that_would_not_end_is_refused(tmp_path: Path, within: float) -> None:
    with pytest.raises(ValueError, match=rf"hydra\.sweeper\.within={within}: .*; give one between 0 and 1, as 0\.02"):
        Halving([], lambda overrides: job(*overrides), tmp_path, within)


def test_it_ends_where_nothing_can_be_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"verdict": "refused", "criteria": [], "failed": {"reason": "no room on this device"}}
    found = search(tmp_path, lambda _: refused)
    assert len(found.steps) == 1
    assert found.best is None
    smallest.show([found])
    assert "no room on this device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method=rtn",), "search=smallest method=rtn: the search sets it, job by job; leave it out, and give"),
        (("gate=default", "~gate.criteria.perplexity", "~gate.criteria.task"), "gate=default: it has no quality criterion"),
        (("stages=[quantize]",), "search=smallest stages=['quantize']: its jobs are judged; add evaluate and judge"),
        (("model=qwen3_8b_random",), "random weights have no quality to measure"),
    ],
)  # fmt: skip
def test_a_search_that_could_find_nothing_is_refused(cli: Cli, overrides: tuple[str, ...], message: str) -> None:
    given = {o.partition("=")[0]: o for o in (*ASKED, *overrides)}
    done = cli("--multirun", "search=smallest", *given.values())
    assert done.code == 2
    assert message in " ".join(done.output.split())
