"""What decides a result is in its key; what is secret or old is in no result; what was run can be run again."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import yaml
from support.command import ROOT, Cli, Finished
from support.jobs import job

from qforge.pipeline import measure
from qforge.pipeline.run import Run
from qforge.plan import plan
from qforge.report import row
from qforge.runtimes.vllm import arguments
from qforge.store.results import key_of


def test_a_changed_chat_template_is_another_checkpoint(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy, copy_function=shutil.copy2)
    run = Run(job(), tmp_path / "run")
    before = run.fingerprint(copy)
    assert run.fingerprint(model) == before
    (copy / "chat_template.jinja").write_text("another")
    assert run.fingerprint(copy) != before


def test_changed_task_data_is_another_evaluation(model: Path, tmp_path: Path) -> None:
    for name in ("arc_easy.yaml", "arc_easy.validation.jsonl"):
        shutil.copyfile(ROOT / "data" / "tasks" / name, tmp_path / name)
    made = job("method=rtn", f"eval.tasks=[{tmp_path / 'arc_easy.yaml'}]")
    planned = plan.make(made, model)

    def keys() -> dict[str, str]:
        return {name: key_of(parts) for name, parts in measure._keys(made, planned, "checkpoint").items()}

    before = keys()
    with (tmp_path / "arc_easy.validation.jsonl").open("a") as stream:
        stream.write("{}\n")
    assert keys()["evaluate"] != before["evaluate"]
    assert keys()["bench"] == before["bench"]


def test_a_baseline_that_does_not_fit_is_said_before_the_work_and_nothing_is_judged(cli: Cli) -> None:
    done = cli.succeed("method=rtn", "hw.memory_gib=0.25", "stages=[quantize,inspect,judge,report]")
    assert done.output.index("bf16 cannot be measured here") < done.output.index("inspect")
    verdict = done.json("verdict")
    assert verdict["verdict"] == "not_measured"
    assert (done.folder / "artifact" / "config.json").exists()
    assert (done.folder / "report.html").exists()


def test_an_option_that_is_switched_off_reaches_vllm(tmp_path: Path) -> None:
    flags = arguments(job("+runtime.args.enable_prefix_caching=false", "+runtime.args.seed=3"), tmp_path, 80)
    assert "--no-enable-prefix-caching" in flags
    assert flags[flags.index("--seed") + 1] == "3"
    assert "--enforce-eager" in flags
    assert "--quantization" not in flags


def test_the_command_that_runs_it_again_is_the_one_that_was_run(tmp_path: Path) -> None:
    overrides = [
        "stages=[serve]",
        "exempt.lm_head.why=it is the head, and a long reason that a YAML dumper would fold " * 3,
    ]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    assert shlex.split(row.command(tmp_path)) == ["python", "run.py", *overrides]


def test_what_an_editor_may_touch_in_an_artifact_is_not_the_stores(rtn: Finished, cli: Cli) -> None:
    artifact = rtn.folder / "artifact"
    assert (artifact / "config.json").stat().st_nlink == 1
    assert (artifact / "model.safetensors").stat().st_mode & 0o222 == 0


def test_results_say_when_and_where_they_were_made(rtn: Finished) -> None:
    made = rtn.json("quantize")["made"]
    assert made["machine"]["cores"] >= 1
    assert made["qforge"]["version"]
    assert json.loads((rtn.folder / "artifact" / "qforge" / "quantize.json").read_text())["made"] == made
