"""A sweep into a folder that another has used: none of its rows passes for a new one, and its end is told in one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import Cli, Finished
from support.rows import ROWS

from qforge.json_files import read_json
from qforge.sweeps import summary

PLANS = ("--multirun", "plan_only=true", "runtime=transformers")


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """Three rows of an earlier sweep, and its report."""
    for number in range(3):
        hydra = tmp_path / f"{number}" / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "config.yaml").write_text("model: {name: old}\nmethod: {name: old}\n")
        (hydra / "overrides.yaml").write_text("[]\n")
        (tmp_path / f"{number}" / "row.json").write_text(json.dumps({**ROWS[0], "model": "old"}))
    for name in ("sweep.json", "report.html", "report.csv", "report.json"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def refused(done: Finished, used: Path) -> None:
    assert done.code == 2, done.output
    assert "Traceback" not in done.output
    assert "RuntimeError" not in done.output
    assert "old" not in done.output
    assert not (used / "sweep.json").exists()
    assert not (used / "report.html").exists()


@pytest.mark.parametrize(
    "overrides", [["method=rtn,nope"], ["method=rtn", "group_size=32,nope"], ["method=rtn", "modle=1,2"]]
)
def test_a_sweep_that_is_refused_while_it_is_composed_reports_nothing(
    overrides: list[str], cli: Cli, used: Path
) -> None:
    refused(cli(*PLANS, *overrides, f"hydra.sweep.dir={used}"), used)


def test_a_ladder_that_is_refused_reports_nothing(cli: Cli, used: Path) -> None:
    refused(cli("--multirun", "search=ladder", "method=gptq", "stages=[quantize]", f"hydra.sweep.dir={used}"), used)


def test_jobs_that_are_refused_while_they_are_composed_are_refused_rows(cli: Cli, used: Path) -> None:
    """And the third job is no job of this sweep."""
    cli("--multirun", "method=rtn,gptq", "runtime=existing", f"hydra.sweep.dir={used}")
    rows = read_json(used / "sweep.json")["rows"]
    assert [(row["folder"], row["verdict"]) for row in rows] == [("0", "refused"), ("1", "refused")]
    assert read_json(used / "0" / "row.json")["method"] == "rtn"


def test_plans_of_a_used_folder_are_new(cli: Cli, used: Path) -> None:
    done = cli.succeed(*PLANS, "method=rtn,bf16", f"hydra.sweep.dir={used}")
    assert "smollm2_135m" not in str(used)
    assert [row["verdict"] for row in summary.rows(used, summary.stamps(used / "none"))].count("planned") == 2
    assert " old" not in done.output


def test_what_was_written_since_is_a_row_of_this_sweep(used: Path) -> None:
    earlier = summary.stamps(used)
    assert list(summary.rows(used, earlier)) == []
    assert len(list(summary.rows(used))) == 3
    (used / "1" / ".hydra" / "config.yaml").write_text("model: {name: new}\nmethod: {name: rtn}\n")
    (row,) = summary.rows(used, earlier)
    assert (row["model"], row["verdict"]) == ("new", "failed"), "it began, and its old row is not its own"


def test_a_sweep_does_not_remove_a_file_that_it_is_given(cli: Cli, used: Path) -> None:
    done = cli(*PLANS, "method=rtn,bf16", f"eval.texts.wikitext.path={used / 'report.json'}", f"hydra.sweep.dir={used}")
    assert done.code == 2
    assert f"refused: hydra.sweep.dir={used}: this run would remove report.json" in done.output
    assert (used / "report.json").exists()
