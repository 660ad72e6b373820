"""Secrets are given by the name of a variable: their values reach the processes that need them and no file."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import hydra
import psutil
import pytest
from support.command import QUICK, Cli, Finished
from support.jobs import job

from qforge.config import secrets
from qforge.config.compose import read_job
from qforge.config.places import CONF
from qforge.envs import process
from qforge.json_files import write_json

SECRETS = {"MY_KEY": "s3cret-of-the-server", "MY_TOKEN": "s3cret-of-the-hub", "QFORGE_JUDGE_KEY": "s3cret-of-the-judge"}
GIVEN = ("serve.api_key=${oc.env:MY_KEY}", "+runtime.environ.HF_TOKEN=${oc.env:MY_TOKEN}")


def leaks(*folders: Path) -> list[str]:
    """Every file that has one of the secrets in it, whatever its kind."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if any(secret.encode() in file.read_bytes() for secret in SECRETS.values())]


@pytest.mark.real
def test_no_file_of_a_whole_job_has_a_secret(cli: Cli, rtn: Finished) -> None:
    done = cli.succeed(
        "method=rtn", *QUICK, "eval.windows=1", "eval.tasks=[]", "runtime=transformers", *GIVEN, environ=SECRETS
    )
    written = {file.name for file in done.folder.rglob("*")}
    assert {"row.json", "report.html", "report.csv", "job.json", "config.yaml", "hydra.yaml", "evaluate.log"} <= written
    assert leaks(done.folder, cli.store) == []
    assert "s3cret" not in done.output
    assert done.json("row")["conditions"]["environ"]["HF_TOKEN"] == "${oc.env:MY_TOKEN}"
    assert "'serve.api_key=${oc.env:MY_KEY}'" in done.json("row")["command"], "and it can be run again"


def test_no_file_of_a_sweep_has_a_secret(cli: Cli, tmp_path: Path) -> None:
    done = cli.succeed(
        "--multirun", "method=rtn,nvfp4", "plan_only=true", "runtime=transformers", *GIVEN, f"hydra.sweep.dir={tmp_path}",
        environ=SECRETS,
    )  # fmt: skip
    assert (tmp_path / "multirun.yaml").exists()
    assert leaks(tmp_path) == []
    assert "s3cret" not in done.output


def test_no_file_of_a_run_that_lists_its_runtimes_has_a_secret(cli: Cli) -> None:
    """It composes its command line anew, once per runtime."""
    done = cli.succeed("runtime=[transformers,vllm_cpu]", "plan_only=true", *GIVEN, environ=SECRETS)
    assert leaks(done.folder) == []


def test_what_a_launcher_pickles_for_a_cluster_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's files hold the composed configuration and the command line; the cluster passes the environment on."""
    monkeypatch.setenv("MY_KEY", SECRETS["MY_KEY"])
    monkeypatch.setenv("MY_TOKEN", SECRETS["MY_TOKEN"])
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", list(GIVEN), return_hydra_config=True)
        assert config.serve.api_key == SECRETS["MY_KEY"], "whoever reads it gets the value"
        assert b"s3cret" not in pickle.dumps(config)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("serve.api_key=s3cret", "serve.api_key"),
        ("+runtime.environ.HF_TOKEN=s3cret", "runtime.environ.HF_TOKEN"),
        ("+runtime.environ={WANDB_API_KEY: s3cret}", "runtime.environ"),
        ("+envs.quant.DB_PASSWORD=s3cret", "envs.quant.DB_PASSWORD"),
        ("+runtime.args.api_key=s3cret", "runtime.args.api_key"),
        ("runtime.container_args=[--env,'HF_TOKEN=s3cret']", "runtime.container_args"),
        ("eval.judge.base_url=https://me:s3cret@host/v1", "eval.judge.base_url"),
        ("eval.judge.base_url='https://host/v1?api_key=s3cret'", "eval.judge.base_url"),
        ("+hydra.job.env_set.HF_TOKEN=s3cret", "hydra.job.env_set.HF_TOKEN"),
    ],
)
def test_a_secret_itself_is_refused_before_anything_is_written(cli: Cli, override: str, key: str) -> None:
    done = cli(override, "plan_only=true")
    assert done.code == 2, done.output
    assert f"refused: {key}" in done.output
    assert "s3cret" not in done.output
    assert "Traceback" not in done.output
    assert not done.folder.exists()


def test_a_swept_secret_is_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    done = cli("--multirun", "serve.api_key=s3cret,other", "plan_only=true", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert done.code == 2
    assert "refused: serve.api_key: a secret on the command line" in done.output
    assert not (tmp_path / "sweep").exists()


def test_a_variable_that_is_not_set_is_refused(cli: Cli) -> None:
    done = cli("method=bf16", "runtime=transformers", "+runtime.environ.HF_TOKEN=${oc.env:NOT_SET_ANYWHERE}")
    assert done.code == 2
    assert "refused: ${oc.env:NOT_SET_ANYWHERE}: the environment has no variable NOT_SET_ANYWHERE" in done.output


def test_the_process_gets_the_value_and_the_job_keeps_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    made = job(
        "serve.api_key=${oc.env:MY_KEY}",
        "+runtime.environ.HF_TOKEN=${oc.env:MY_KEY}",
        "+runtime.environ.A=${oc.env:MY_KEY}",
    )
    assert made.serve.api_key == made.runtime.environ["HF_TOKEN"] == "${oc.env:MY_KEY}"
    assert made.runtime.environ["A"] == "s3cret", "what is no secret by its name is resolved, and decides results"
    write_json(tmp_path / "job.json", made)
    assert read_job(tmp_path / "job.json").serve.api_key == "${oc.env:MY_KEY}"
    assert b"s3cret" not in pickle.dumps(made.serve)
    here = process.Environment(Path(sys.executable), "x", None, {"HF_TOKEN": "${oc.env:MY_KEY}"})
    with process.process(here, ["-c", "import os; print(os.environ['HF_TOKEN'])"], {}) as child:
        assert child.communicate()[0] == b"s3cret\n"
    with process.process(here, ["-c", "import time; print(1, flush=True); time.sleep(60)"], {}) as child:
        assert child.stdout
        child.stdout.readline()
        lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert any("time.sleep(60)" in line for line in lines), "it runs"
    assert not [line for line in lines if "s3cret" in line], "who lists processes sees the value"


@pytest.mark.parametrize("name", ["api_key", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "password", "token"])
def test_what_is_a_secret_by_its_name(name: str) -> None:
    assert secrets.NAME.search(name)


@pytest.mark.parametrize(
    "name", ["answer_tokens", "max_num_batched_tokens", "keep", "monkey", "keys", "tokenizer", "hotkey"]
)
def test_what_is_none(name: str) -> None:
    assert not secrets.NAME.search(name)


def test_a_url_with_a_secret_is_refused_with_the_variable_to_set() -> None:
    with pytest.raises(
        ValueError, match=r"^tracking\.uri: the URL contains a secret.*MLFLOW_TRACKING_TOKEN for tracking\.uri"
    ):
        secrets.refuse({"tracking": {"uri": "http://me:word@127.0.0.1:1"}})
