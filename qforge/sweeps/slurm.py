"""A sweep on SLURM, seen from where it was submitted: it ends when every job has ended, and each has a row.

How a job ended is read from its own folder. SLURM, which calls a raised exception COMPLETED, is asked only whether it still
has a job, and for a word about one that left nothing. It needs no accounting for that.
"""

from __future__ import annotations

import pickle
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

from hydra.core.utils import JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf.errors import OmegaConfBaseException
from submitit import AutoExecutor
from submitit import Job as Ran
from submitit.core.utils import FailedSubmissionError

from qforge.config.job import Job, Vendor
from qforge.config.places import importable
from qforge.console import console
from qforge.envs import managed
from qforge.envs.request import REFUSED
from qforge.json_files import read_json
from qforge.pipeline.measure import MEASUREMENTS
from qforge.pipeline.run import EVAL_ENV, QUANT_ENV
from qforge.plan import towers
from qforge.report.table import verdict_of
from qforge.sweeps.task import Task

GENERIC = {field.name for field in fields(BaseQueueConf)}  # what submitit has for every kind of cluster
LOOK = 10  # seconds between two looks into SLURM's queue; it serves the whole cluster
STATE = re.compile(r"\b(JobState|Reason|ExitCode)=(\S+)")


def prepare(tasks: Sequence[Task]) -> None:
    """Make the environments here, since compute nodes may have no network, and remove old rows: none may pass for a new one.

    Raises what making an environment raises.
    """
    needed = dict[str, bool]()  # whether it will run on GPUs, which the machine that submits need not have
    for task in tasks:
        (task.folder / "row.json").unlink(missing_ok=True)
        with suppress(OmegaConfBaseException, ValueError):  # a job that is refused will say so itself, in its row
            on_gpus = task.job.hw.vendor is not Vendor.cpu
            needed |= {name: needed.get(name, False) or on_gpus for name in environments(task.job)}
    for name, on_gpus in sorted(needed.items()):
        managed.managed(name, on_gpus or None)


def environments(job: Job) -> set[str]:
    """The managed environments in which the stages of a job run."""
    if job.plan_only:
        return set()
    served = job.serve.keep or job.rescore or set(MEASUREMENTS) & set(job.stages)
    names = {QUANT_ENV, EVAL_ENV, job.method.env, *(towers.environments(job) if served else [])}
    names |= {job.runtime.speech.env} if job.runtime.speech and job.speaks else set()
    return {name for name in names if name and name not in job.envs}


def submit(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], options: dict[str, Any]) -> list[Ran[Any]]:
    """Submit `work` with each of `arguments`, as one job array; `options` are the launcher's.

    Raises ValueError where SLURM takes no such jobs.
    """
    # `work` is found by its import path, wherever the user stands
    path = f"export PYTHONPATH={shlex.quote(str(importable()))}${{PYTHONPATH:+:$PYTHONPATH}}"
    options = {**options, "setup": [path, *(options["setup"] or [])]}
    parameters = {name if name in GENERIC else f"slurm_{name}": value for name, value in options.items()}
    folder, restarts = parameters.pop("submitit_folder"), parameters.pop("slurm_max_num_timeout")
    try:
        executor = AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=restarts)
        executor.update_parameters(**parameters)
        return executor.map_array(work, *zip(*arguments, strict=True))
    except (RuntimeError, FailedSubmissionError) as error:
        raise ValueError(
            f"hydra/launcher=slurm: {error}; submit where sbatch works, and check hydra.launcher.partition, account, "
            "gpus_per_node ...; hydra.sweeper.max_batch_size splits arrays that are too long"
        ) from error


def wait(jobs: Sequence[Ran[Any]]) -> Iterator[int]:
    """The place in `jobs` of each job, as it ends."""
    left = dict(enumerate(jobs))
    missing, looked = set[str](), time.monotonic()
    while left:
        time.sleep(0.5)
        gone = set[str]()
        if time.monotonic() - looked > LOOK:
            present, looked = queued(array_of(jobs)), time.monotonic()
            absent = {job.job_id for job in left.values()} - present
            gone, missing = absent & missing, absent  # absent twice: its files have had the time to arrive
        for place in [p for p, job in left.items() if job.paths.result_pickle.exists() or job.job_id in gone]:
            del left[place]
            yield place


def array_of(jobs: Sequence[Ran[Any]]) -> str:
    """The number by which SLURM knows all of them."""
    return jobs[0].job_id.partition("_")[0]


def cancel(jobs: Sequence[Ran[Any]]) -> None:
    """End those that have not ended."""
    subprocess.run(["scancel", array_of(jobs)], check=True)


def queued(array: str) -> set[str]:
    """The jobs of an array that SLURM has not done with. While its controller does not answer, waits for it."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={array}"]
    while (listing := subprocess.run(command, capture_output=True, text=True)).returncode:
        if "Invalid job id" in listing.stderr:  # forgotten, so they have ended
            return set()
        console.print(f"SLURM does not answer, waiting: {listing.stderr.strip()}", style="yellow")
        time.sleep(LOOK)
    return set(listing.stdout.split())


def settle(task: Task, job: Ran[Any]) -> None:
    """A job has ended: say how, by its row; one that left none gets one that says why."""
    file = task.folder / "row.json"
    if not file.exists() and (ending := _ending(job)):
        verdict, why = ending
        task.leave(verdict, f"job {job.job_id}: {why}  (logs: {job.paths.folder})")
    how = verdict_of(read_json(file)) if file.exists() else "done"  # of a plan there is no row
    console.print(f"{task.number} {how}: {shlex.join(task.overrides)}", style="dim")


def _ending(job: Ran[Any]) -> tuple[str, str] | None:
    """Verdict and reason of a job that left no row: what it said itself, or else what SLURM says. None if it ended well."""
    if not job.paths.result_pickle.exists():
        return "failed", _said_by_slurm(job)
    how, value = pickle.loads(job.paths.result_pickle.read_bytes())
    if how != "success":
        return "failed", str(value).strip().splitlines()[-1]  # a traceback
    if value.status is not JobStatus.COMPLETED:
        return "failed", str(value._return_value)
    if code := value.return_value:
        return "refused" if code == REFUSED else "failed", f"ended with exit code {code}"
    return None


def _said_by_slurm(job: Ran[Any]) -> str:
    """CANCELLED, TIMEOUT, FAILED ..., SLURM's reason, and the exit code with the signal."""
    if not job.paths.stderr.exists():  # SLURM has no record of its own for such a job of an array
        return "it was cancelled before it started"
    command = ["scontrol", "--oneliner", "show", "job", job.job_id]
    fields = dict(STATE.findall(subprocess.run(command, capture_output=True, text=True).stdout))
    if not fields:
        return "SLURM no longer knows how it ended (MinJobAge)"
    return f"SLURM says {fields['JobState']}, reason {fields['Reason']}, exit code {fields['ExitCode']}"
