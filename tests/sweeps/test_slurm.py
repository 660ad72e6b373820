"""Sweeps on a real SLURM: whatever happens to a job, it ends as a row with its reason, and nothing of it is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.checkpoints import DENSE, checkpoint
from support.cluster import find, process_of, said, slurm
from support.command import QUICK, Cli, Finished
from support.jobs import job
from support.processes import processes_with, until, wait_for_output

from qforge.json_files import read_json
from qforge.sweeps.slurm import environments

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not (shutil.which("sbatch") and find("munged")), reason="SLURM or munge is not installed"),
]
HERE = ("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1")


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[None]:
    with slurm(cores=2):
        yield


@pytest.fixture(scope="module")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Three blocks of random weights."""
    folder = checkpoint(tmp_path_factory.mktemp("small") / "source", {**DENSE, "num_hidden_layers": 3}, model, files=1)
    return ("model=local", "model.name=small", f"model.path={folder}")


@pytest.fixture(scope="module")
def gptq(small: tuple[str, ...]) -> tuple[str, ...]:
    """A job that takes a while."""
    return (*small, "method=gptq", "calib.length=64", "stages=[quantize,inspect]")


@contextmanager
def sweep(cli: Cli, folder: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    arguments, _ = cli.command("--multirun", f"hydra.sweep.dir={folder}", *HERE, *overrides)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            said("scancel", "--user", str(os.getuid()))


def ended(process: subprocess.Popen[str], folder: Path) -> Finished:
    output = process.communicate(timeout=900)[0]
    gone(folder)
    return Finished(process.returncode, output, folder)


def gone(folder: Path) -> None:
    """Nothing is left in SLURM's queue, and no process."""
    until(lambda: not said("squeue", "--noheader"))
    until(lambda: not processes_with(str(folder)))


def reason(folder: Path, number: int) -> str:
    row = read_json(folder / f"{number}" / "row.json")
    assert row["verdict"] in ("failed", "refused")
    return row["failed"]["reason"]


def test_killed_cancelled_preempted_and_refused_jobs_are_rows(cli: Cli, gptq: tuple[str, ...], tmp_path: Path) -> None:
    with sweep(cli, tmp_path, *gptq, "calib.sequences=400,12,4,0,5") as process:
        for number in (0, 1):  # there is room for two
            wait_for_output(tmp_path / f"{number}" / "quantize.log", "", process)
        array = said("squeue", "--noheader", "--format=%F").split()[0]
        said("scancel", f"{array}_4")  # which has not begun
        process_of(tmp_path, 0).kill()
        said("scancel", f"{array}_1")
        wait_for_output(tmp_path / "2" / "quantize.log", "", process)
        said("srun", "--partition=high", "--ntasks=2", "true")  # all the room there is: somebody has to go
        done = ended(process, tmp_path)
    assert done.code == 1, done.output
    assert f"job {array}_0: SLURM says FAILED" in reason(tmp_path, 0)
    assert f"job {array}_1: SLURM says CANCELLED" in reason(tmp_path, 1)
    assert f"job {array}_4: it was cancelled before it started" in reason(tmp_path, 4)
    assert "calib.sequences=0" in reason(tmp_path, 3)
    assert "calib.sequences=5" in read_json(tmp_path / "4" / "row.json")["command"]
    assert read_json(tmp_path / "2" / "row.json")["verdict"] == "not_measured"
    assert "this job is preempted" in (tmp_path / ".submitit" / f"{array}_2" / f"{array}_2_0_log.err").read_text()
    words = (tmp_path / ".submitit" / f"{array}_2" / f"{array}_2_0_log.out").read_text()
    assert words.count("✓ calibrate") == words.count("= calibrate") == 1, "it went on where it was"
    assert (tmp_path / "report.html").exists()


def test_a_job_that_runs_out_of_time_says_so(cli: Cli, gptq: tuple[str, ...], tmp_path: Path) -> None:
    short = ("hydra.launcher.timeout_min=5", "hydra.launcher.max_num_timeout=0")  # each signal counts as one
    with sweep(cli, tmp_path, *gptq, "calib.sequences=400", *short) as process:
        wait_for_output(tmp_path / "0" / "quantize.log", "", process)
        said("scancel", "--signal=USR2", *said("squeue", "--noheader", "--format=%A").split())
        done = ended(process, tmp_path)
    assert done.code == 1, done.output
    assert "Job not requeued because: timed-out too many times" in reason(tmp_path, 0)


def test_ctrl_c_ends_the_jobs_as_well(cli: Cli, gptq: tuple[str, ...], tmp_path: Path) -> None:
    with sweep(cli, tmp_path, *gptq, "calib.sequences=400") as process:
        wait_for_output(tmp_path / "0" / "quantize.log", "", process)
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130, output
    gone(tmp_path)


def test_jobs_that_need_the_same_baseline_measure_it_once(cli: Cli, small: tuple[str, ...], tmp_path: Path) -> None:
    quick = (*QUICK, "eval.windows=3", "eval.context=256", "eval.tasks=[]", "runtime=transformers")
    with sweep(cli, tmp_path, *small, "method=rtn", "group_size=32,64", *quick) as process:
        done = ended(process, tmp_path)
    assert done.code == 0, done.output
    assert len(list(tmp_path.glob("*/evaluate.log"))) == 2
    assert len(list(tmp_path.glob("*/bf16-evaluate.log"))) == 1
    first, second = (read_json(tmp_path / f"{number}" / "bf16-evaluate.json") for number in range(2))
    assert first == second


def test_a_job_that_lacks_a_value_stops_no_other(cli: Cli, tmp_path: Path) -> None:
    with sweep(cli, tmp_path, "model=local,smollm2_135m", "plan_only=true") as process:
        done = ended(process, tmp_path)
    assert done.code == 0, done.output  # a row was refused, none failed
    assert "ended with exit code 2" in reason(tmp_path, 0)
    assert (tmp_path / "1" / "plan.json").exists()


def test_the_environments_of_a_job_are_known_before_it_is_submitted() -> None:
    assert environments(job("method=gptq")) == {"quant", "vllm_cpu"}
    assert environments(job("method=gptq", "stages=[quantize]")) == {"quant"}
    assert environments(job("method=gptq", "+envs.quant.python=python3")) == {"vllm_cpu"}, "that one is here"
    assert not environments(job("method=gptq", "plan_only=true"))
    omni = ("model=qwen3_omni_tiny", "hw=cpu", "runtime=vllm_omni_cpu")
    assert environments(job(*omni)) == {"quant", "vllm_cpu_multimodal", "vllm_omni_cpu"}
    assert environments(job(*omni, "stages=[quantize,inspect,speak]")) == {"quant", "vllm_omni_cpu"}


@pytest.mark.parametrize(
    ("override", "environ", "words"),
    [
        ("hydra.launcher.partition=nowhere", {}, "invalid partition specified: nowhere"),
        ("method.env=nowhere", {}, "refused: env=nowhere: no such environment"),
        ("hydra.launcher.timeout_min=soon", {}, "Value 'soon' of type 'str' could not be converted to Integer"),
        ("method=rtn", {"PATH": ""}, "submit where sbatch works"),
    ],
)
def test_what_cannot_be_submitted_is_refused(
    cli: Cli, tmp_path: Path, override: str, environ: dict[str, str], words: str
) -> None:
    done = cli("--multirun", f"hydra.sweep.dir={tmp_path}", *HERE, override, environ=environ)
    assert done.code == 2, done.output
    assert words in done.output
    assert "Traceback" not in done.output
