"""What must be the same for a comparison is one thing for keys, for the judge and for reports."""

from __future__ import annotations

import copy

import pytest
from support.jobs import job
from support.rows import ROWS

from qforge.config.job import Criterion, Gate
from qforge.judge import conditions, verdict
from qforge.machine import identity
from qforge.pipeline import measure
from qforge.plan import plan
from qforge.report import table
from qforge.store.results import key_of

HERE = identity.machine()
DIFFERENT = [("memory_gib", 0.1, True), ("cpu", "another", False), ("cores", 1, False), ("system", "another", False),
             ("gpus", ["another"], False)]  # fmt: skip


def served(machine: dict) -> dict:
    """Results of which only a server's start was measured, on `machine`."""
    serve = {"made": {"machine": machine}, "version": "1"}
    nothing = {"not_measured": "not run"}
    return {"serve": serve, "evaluate": nothing, "bench": nothing, "weights": {"bytes": 1, "as_bf16": True}}


@pytest.mark.parametrize(("name", "value", "same"), DIFFERENT)
def test_keys_judge_and_report_agree_on_what_makes_another_machine(
    name: str, value: object, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster any two nodes differ by 0.1 GiB of memory: a baseline that both share was refused as unfair."""
    other = {**HERE, name: HERE[name] + value if name == "memory_gib" else value}
    row, elsewhere = (copy.deepcopy(ROWS[0]) | {"machine": machine} for machine in (HERE, other))
    assert (table.conditions_of(row) == table.conditions_of(elsewhere)) == same

    it = job("method=bf16")
    planned = plan.make(it, None)
    before = key_of(measure._keys(it, planned, "checkpoint"))
    monkeypatch.setattr(identity, "machine", lambda: other)
    assert (key_of(measure._keys(it, planned, "checkpoint")) == before) == same

    gate = Gate("size", {"size": Criterion("weights_gb", at_most=1, why="")})
    if same:
        assert verdict.judge(gate, served(HERE), served(other))["verdict"] == "accept"
    else:
        with pytest.raises(ValueError, match=rf"not measured under the same conditions: machine\.{name} "):
            verdict.judge(gate, served(HERE), served(other))


def test_another_version_is_another_condition_for_judge_and_report() -> None:
    other = copy.deepcopy(ROWS[0])
    other["measured"]["serve"]["version"] = "0.99"
    assert table.conditions_of(other) != table.conditions_of(ROWS[0])
    newer = served(HERE)
    newer["serve"]["version"] = "2"
    with pytest.raises(ValueError, match=r"the version of vLLM \(1 against 2\)"):
        conditions.refuse_different(served(HERE), newer)
