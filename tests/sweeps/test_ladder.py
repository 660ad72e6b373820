"""The ladder: what comes next given the rows so far, what each rung gained, and one real climb."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable
from math import log
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.command import ROOT, Cli, Finished
from support.jobs import job

from qforge import cli as command_line
from qforge.json_files import read_json
from qforge.sweeps import ladder_report
from qforge.sweeps.ladder import Climb, Rung, refuse_given
from qforge.sweeps.step import replaced
from qforge.sweeps.stopping import Row, end_of, missed, numbers, quality_of

RUNGS = [
    Rung(str(name), **rung)
    for name, rung in OmegaConf.to_object(OmegaConf.load(ROOT / "conf/hydra/sweeper/ladder.yaml"))["rungs"].items()
]
NAMES = [
    "minimal",
    "cache_in_bf16",
    "boundary_targeted",
    "boundary",
    "smaller_group",
    "more_calibration",
    "sensitivity",
]


def measured(method: str) -> Row:
    """A row that was measured."""
    return read_json(ROOT / "results" / f"smollm2_135m-{method}-cpu.json")


def with_verdicts(row: Row, **verdicts: str) -> Row:
    """The row, had its criteria come out like that."""
    row = copy.deepcopy(row)
    for criterion in row["criteria"]:
        criterion["verdict"] = verdicts.get(criterion["criterion"], criterion["verdict"])
    return row


def climb(tmp_path: Path, *start: str, rows: Callable[[int], Row], rungs: list[Rung] = RUNGS) -> Climb:
    """Climb to the end, each job leaving a row of `rows`, as run.py's jobs leave theirs."""
    ladder = Climb([f"store={tmp_path}", *start], rungs, lambda overrides: job(*overrides), tmp_path)
    number = 0
    while step := ladder.next():
        folder = tmp_path / str(number)
        folder.mkdir()
        step.start(folder)
        (folder / "row.json").write_text(json.dumps(rows(number)))
        if "method=gptq" in start:
            (folder / "calibrate.json").write_text(json.dumps({"texts": {"a": {"sequences": 170, "duplicates": 3}}}))
        ladder.record(step)
        number += 1
    return ladder


def found(ladder: Climb) -> dict[str, list[str] | str]:
    """What each rung sets beyond what the user gave, or why it was skipped."""
    return {s.rung: s.skipped or [o for o in s.overrides if o not in ladder.start] for s in ladder.steps}


def test_the_rungs_are_the_strategys() -> None:
    assert [rung.name for rung in RUNGS] == NAMES


def test_quality_decides_whether_to_climb() -> None:
    gptq, fp8 = measured("gptq"), measured("fp8")
    assert quality_of(gptq) == "reject"
    assert end_of(gptq) is None
    assert quality_of(fp8) == "inconclusive", "20 questions fewer could decide it; its speed fails"
    assert end_of(fp8) is None, "undecided is not accepted: climb on"
    passing = end_of(with_verdicts(fp8, task="pass"))
    assert passing is not None
    assert passing.outcome == "beyond_quality"
    assert re.search(
        r"more bits do not change the criteria that fail: speed concurrency 4 -9\d\.\d %, wanted >= 60", passing.why
    )
    assert end_of({**with_verdicts(fp8, task="pass", speed="pass"), "verdict": "accept"}).outcome == "accepted"
    unmeasured = end_of(with_verdicts(fp8, task="not_measured"))
    assert unmeasured is not None
    assert unmeasured.outcome == "not_measured"
    assert unmeasured.why.startswith("task arc_easy_local")
    assert end_of(measured("bf16")).why == "nothing was judged"
    assert [m.partition(" ")[0] for m in missed(gptq, quality=True)] == ["perplexity"] * 2 + ["task"] * 3


def test_what_a_rung_is_weighed_by() -> None:
    row = measured("gptq")
    by = numbers(row)
    assert by["bytes"] == row["size"]["bytes"]
    assert by["tokens_per_second"] == row["measured"]["bench"]["runs"]["4"]["output_throughput"]
    perplexities = [(c["measured"], c["baseline"]) for c in row["criteria"] if c["criterion"] == "perplexity"]
    ratio = (perplexities[0][0] / perplexities[0][1] * perplexities[1][0] / perplexities[1][1]) ** 0.5
    assert by["loss"] == pytest.approx(log(ratio))
    kl = [text["kl"] for text in row["measured"]["divergence"]["texts"].values()]
    assert by["kl"] == pytest.approx(sum(kl) / len(kl))
    assert "kl" not in numbers(measured("fp8")), "that row is older than the KL"


def test_a_calibrated_method_climbs_to_the_end_of_the_texts(tmp_path: Path) -> None:
    ladder = climb(tmp_path, "method=gptq", rows=lambda _: measured("gptq"))
    kept = ["exempt=boundary", "group_size=32"]
    assert found(ladder) == {
        "minimal": ["exempt=lm_head"], "boundary_targeted": ["exempt=boundary_targeted"], "boundary": ["exempt=boundary"],
        "smaller_group": kept, "more_calibration": [*kept, "calib.sequences=167"],
        "sensitivity": ["group_size=32", "calib.sequences=167", "exempt=from_sensitivity", "sensitivity.budget_gib=0.0355"],
    }  # fmt: skip
    assert ladder.end is not None
    assert ladder.end.outcome == "top"


def test_it_stops_at_the_first_accepted_rung_and_says_what_each_bought(tmp_path: Path) -> None:
    rows = [measured("rtn"), measured("gptq"), {**measured("awq"), "verdict": "accept"}]
    ladder = climb(tmp_path, "method=rtn", rows=rows.__getitem__)
    assert list(found(ladder)) == ["minimal", "boundary_targeted", "boundary"], "the cache is in bf16: no rung for it"
    ladder_report.write(tmp_path / "ladder.json", [ladder])
    (told,) = read_json(tmp_path / "ladder.json")["climbs"]
    assert (told["outcome"], told["best"]) == ("accepted", "boundary")
    first, _, last = told["rungs"]
    assert first["gained"] == {}
    assert last["folder"] == "2"
    assert last["gained"]["bytes"] == rows[2]["size"]["bytes"] - rows[1]["size"]["bytes"]
    assert last["gained"]["loss"] == pytest.approx(numbers(rows[2])["loss"] - numbers(rows[1])["loss"])
    assert first["missed"][0].startswith("perplexity wikitext 38.6 %")


@pytest.mark.parametrize(("cache", "skipped"), [("reject", ""), ("accept", "bf16 weights pass with kv=fp8")])
def test_a_cache_that_fails_with_bf16_weights_too_is_kept_in_bf16(tmp_path: Path, cache: str, skipped: str) -> None:
    row = {**measured("rtn"), "cache": {"kv": "fp8", "verdict": cache, "criteria": []}}
    ladder = climb(tmp_path, "method=rtn", "kv=fp8", "hw=h200", "kv.strategy=tensor", rows=lambda _: row)
    second, third = list(found(ladder).items())[1:3]
    assert second == ("cache_in_bf16", skipped or ["exempt=lm_head", "kv=auto", "kv.dtype=auto", "kv.strategy=null"])
    assert ("kv=auto" in third[1]) is not bool(skipped), "what a rung sets is kept"


def test_a_rung_that_changes_nothing_is_skipped(tmp_path: Path) -> None:
    embeddings = [RUNGS[0], Rung("embeddings", "sensitive", {"exempt": ["lm_head", "embed_tokens"]}), *RUNGS[4:6]]
    ladder = climb(tmp_path, "method=rtn", "group_size=32", rows=lambda _: measured("rtn"), rungs=embeddings)
    assert found(ladder) == {
        "minimal": ["exempt=lm_head"], "embeddings": "comes to the same checkpoint as minimal",
        "smaller_group": "rtn has no group below 32", "more_calibration": "rtn uses no text",
    }  # fmt: skip


def test_a_refused_rung_is_a_row_and_the_climb_goes_on_to_a_group_that_is_planned(tmp_path: Path) -> None:
    refused = {"verdict": "refused", "criteria": [], "failed": {"reason": "group_size=128: 576 inputs"}}
    ladder = climb(tmp_path, "method=rtn", "group_size=128", rows=lambda _: refused)
    assert found(ladder)["smaller_group"] == ["exempt=boundary", "group_size=64"]
    assert [ladder_report.reason(s) for s in ladder.steps][:3] == ["group_size=128: 576 inputs"] * 3
    assert ladder.best is None


def test_a_job_that_left_nothing_has_failed(tmp_path: Path) -> None:
    ladder = Climb(["method=rtn"], RUNGS, lambda overrides: job(*overrides), tmp_path)
    step = ladder.next()
    assert step is not None
    (tmp_path / "row.json").write_text(json.dumps({**measured("rtn"), "verdict": "accept"}))
    step.start(tmp_path)  # an earlier sweep's row is not this one's
    (tmp_path / "plan.json").write_text(json.dumps({"bytes": 1}))  # it died after its plan
    ladder.record(step)
    assert (step.row["verdict"], ladder.end) == ("failed", None)
    assert ladder_report.reason(step) == "the job ended without a row"


def test_overrides_replace_whatever_was_given_for_the_key() -> None:
    assert replaced(["a=1", "+b=2", "c/d=3"], {"b": "4", "c/d": "5"}) == ["a=1", "b=4", "c/d=5"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["artifact=/x"], "search=ladder artifact=/x: every job makes another checkpoint; leave artifact out"),
        (
            ["method=bf16"],
            "search=ladder method=bf16: quantizes nothing, and every rung would be the same; use another",
        ),
        (["stages=[quantize,inspect]"], "its jobs are judged; add evaluate and judge, or leave stages out"),
        (
            ["~gate.criteria.perplexity", "~gate.criteria.task"],
            "search=ladder gate=default: it has no quality criterion, and a search improves only quality; use gate=quality",
        ),
    ],
)
def test_a_ladder_that_leads_nowhere_is_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Climb(overrides, RUNGS, lambda o: job(*o), tmp_path)


def test_what_the_ladder_sets_is_not_the_users_to_set() -> None:
    with pytest.raises(
        ValueError, match="search=ladder exempt=boundary: the ladder sets it, rung by rung; leave it out"
    ):
        refuse_given(["method=rtn", "exempt=boundary"], RUNGS)
    refuse_given(["method=rtn", "group_size=32"], RUNGS)  # where it starts from


def test_a_search_is_a_sweep() -> None:
    assert command_line.expand(["-m", "search=ladder"]) == ["-m", "hydra/sweeper=ladder"]
    with pytest.raises(
        ValueError, match="search=ladder: runs one job after the other until one is accepted; add --mul"
    ):
        command_line.expand(["search=ladder"])


def test_every_combination_climbs_its_own_ladder(cli: Cli, model: Path, tmp_path: Path) -> None:
    done = ladder(cli, tmp_path, "method=rtn,fp8", "group_size=null", "plan_only=true")
    assert done.code == 0, done.output
    rtn, fp8 = done.json("ladder")["climbs"]
    ends = [rung.get("verdict") or rung["skipped"] for rung in rtn["rungs"]]
    assert ends == [*["planned"] * 4, "rtn uses no text", "planned"]
    assert [rung.get("folder") for rung in rtn["rungs"]] == ["0", "2", "4", "6", None, "8"]
    assert fp8["rungs"][3]["skipped"] == "fp8 has no groups"
    assert rtn["rungs"][1]["gained"]["bytes"] > 0
    wrong = ladder(cli, tmp_path, "method=rtn", "+hydra.sweeper.rungs.mine={why: x, overides: {exempt: none}}")
    assert wrong.code == 2
    assert "refused: Key 'overides' not in 'Rung'" in wrong.output


def test_a_ladder_of_which_nothing_can_run_is_refused(cli: Cli, tmp_path: Path) -> None:
    done = ladder(cli, tmp_path, "method=nvfp4", "runtime=transformers", "plan_only=true")
    assert done.code == 2, done.output
    assert {row["verdict"] for row in done.json("sweep")["rows"]} == {"refused"}


def test_a_real_climb(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Once with a gate that nothing passes; again, from the store, with one that the second rung just passes."""
    common = (
        "method=rtn", "runtime=transformers", "eval=quick", "eval.tasks=[]", "eval.stability.prompts=null", "gate=quality",
        "~gate.criteria.task", *(f"~hydra.sweeper.rungs.{rung}" for rung in ("boundary_targeted", "boundary", "sensitivity")),
    )  # fmt: skip
    (tmp_path / "first").mkdir()
    done = ladder(cli, tmp_path / "first", *common, "gate.criteria.perplexity.at_most=0")
    assert done.code == 3, f"the gate must hold, and no rung has it: {done.output}"
    (told,) = done.json("ladder")["climbs"]
    assert (told["outcome"], told["best"]) == ("top", "smaller_group")
    minimal, smaller, calibration = told["rungs"]
    assert calibration["skipped"] == "rtn uses no text"
    assert minimal["quality"] == "reject"
    assert smaller["gained"]["loss"] < 0
    assert smaller["gained"]["kl"] < 0 < smaller["gained"]["bytes"]
    assert (done.folder / "report.html").exists(), "the sweep's own report comes after"

    most = max(c["interval"][1] for c in read_json(done.folder / "1" / "row.json")["criteria"])
    (tmp_path / "again").mkdir()
    above = "+hydra.sweeper.rungs.above={why: is never reached, overrides: {exempt: boundary}}"
    done = ladder(cli, tmp_path / "again", *common, f"gate.criteria.perplexity.at_most={most + 1e-6}", above)
    assert done.code == 0, done.output
    (told,) = done.json("ladder")["climbs"]
    assert (told["outcome"], told["best"]) == ("accepted", "smaller_group")
    assert [rung["verdict"] != "accept" for rung in told["rungs"]] == [True, False]


def ladder(cli: Cli, folder: Path, *overrides: str) -> Finished:
    command, _ = cli.command("--multirun", "search=ladder", f"hydra.sweep.dir={folder}", *overrides)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return Finished(done.returncode, done.stdout + done.stderr, folder)
