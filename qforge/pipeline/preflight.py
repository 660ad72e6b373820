"""What this machine refuses before any work: missing devices, a taken port, too little disk. Raises ValueError."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from qforge.config import secrets
from qforge.config.job import Engine, Job
from qforge.envs import interpreters
from qforge.machine import hardware, identity
from qforge.models import hub, hub_upload, metadata
from qforge.pipeline import answers, artifact, fetch, judging
from qforge.pipeline.run import Run
from qforge.plan import sensitivity
from qforge.plan.plan import Plan
from qforge.runtimes import server

ROOM = 1.2  # free disk asked for, as a multiple of what may be written


def places(run: Run) -> list[str]:
    """Refuse what the job names and is not there: store, artifact, interpreters, image. Returns what was not looked for: what
    is of a machine with other devices, for which this one plans."""
    job = run.job
    _refuse_store(run)
    if job.artifact:
        artifact.given(run)
    here = Path(hardware.DEVICE_FILES[job.hw.vendor]).exists()
    interpreters.check(job, _measures(job) and here)
    if here or job.runtime.env or not _measures(job):
        return []
    return [f"runtime={job.runtime.name} was not checked: this machine has no {job.hw.vendor.value} GPU"]


def _measures(job: Job) -> bool:
    return bool(job.serve.keep or job.speaks or {"serve", "evaluate", "bench"} & set(job.stages))


def _refuse_store(run: Run) -> None:
    try:
        run.store.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"store={run.job.store}: {error.strerror}; give a folder that can be created") from None
    if not os.access(run.store.root, os.W_OK | os.X_OK):
        raise ValueError(f"store={run.job.store}: is not writable; give a writable folder")


def preflight(run: Run, plan: Plan) -> None:
    """Refuse what this machine cannot do, before anything is downloaded."""
    job = run.job
    if fetch.from_hub(job.model) and not fetch.known_model(run):
        metadata.read(
            replace(job.model, architecture=None), None
        )  # refuses what the fetched files would be refused for
    if job.makes_checkpoint and "quantize" not in job.stages and not sensitivity.nothing_else(job):
        raise ValueError(f"stages={job.stages}: without quantize, say which checkpoint: artifact=PATH")
    if _measures(job) and job.runtime.engine is Engine.vllm:
        for_serving(job)
    secrets.revealed(
        {"serve.api_key": job.serve.api_key or "", **job.runtime.environ}
    )  # refuses a variable that is not set
    server.free_port(job.serve.port)
    if job.publish.repo:
        hub_upload.refuse_no_writer(job.publish.repo)
    if "quantize" in job.stages:
        for_quantizing(job)
    if job.serve.keep:
        refuse_useless_server(run, plan.emulated or plan.simulated, plan.serving.reason)
    refuse_small_disk(run, plan)
    answers.check(run, make=True)
    judging.greet(job)


def refuse_small_disk(run: Run, plan: Plan) -> None:
    """Raises ValueError where the store's disk may not hold what the run writes."""
    free = shutil.disk_usage(run.store.root).free
    needed = ROOM * peak_bytes(run.job, plan, _fetched_bytes(run, plan))
    if free < needed:
        raise ValueError(
            f"store={run.store.root}: the disk has {free / 1e9:.2f} GB free and this run may write {needed / 1e9:.2f} "
            "GB; free some space or give another store=PATH"
        )


def _fetched_bytes(run: Run, plan: Plan) -> int:
    """What fetching the bf16 checkpoint may still write: of the hub's files the rest."""
    if fetch.known_model(run):
        return 0
    if not fetch.from_hub(run.job.model):
        return plan.source_bytes
    arrived = sum(file.stat().st_size for file in fetch.arriving(run).rglob("*") if file.is_file())
    return sum(file.size for file in hub.files(run.job.model)) - arrived


def peak_bytes(job: Job, plan: Plan, fetched: int) -> int:
    """The most that this run adds to the store at one time; `fetched`: the bf16 checkpoint, as far as it is not there.

    Random weights and the hub's files are written once. A GGUF file lies there twice while it is converted, in its packages
    and joined: at 8 bits as much as its bf16 checkpoint, and gone before anything is quantized.
    """
    quantizes = job.makes_checkpoint and "quantize" in job.stages
    if plan.packing and not job.method.streams:  # it is unpacked first
        fetched += plan.bf16_bytes
    made = (plan.bytes + (plan.bf16_bytes if plan.simulated else 0)) if quantizes else 0
    if quantizes and plan.core:  # taken out, then quantized, then put back
        made += plan.bf16_bytes + plan.bytes
    return fetched + max(made, fetched if job.model.gguf and not job.model.random else 0)


def refuse_useless_server(run: Run, emulated: bool, reason: str) -> None:
    """A server for users must have a kernel."""
    if run.job.runtime.engine is not Engine.vllm:
        raise ValueError(f"serve.keep runtime={run.job.runtime.name}: only vLLM serves; leave runtime out")
    if emulated:
        raise ValueError(
            f"serve.keep hw={run.job.hw.name}: {reason}; to serve on this hardware use method=gptq or awq, or serve "
            "this one on an hw that has a kernel for it"
        )


def for_serving(job: Job) -> None:
    """Serving for a GPU needs one here."""
    vendor, file = job.hw.vendor, hardware.DEVICE_FILES[job.hw.vendor]
    if not Path(file).exists():
        raise ValueError(
            f"hw={job.hw.name}: this machine has no {vendor.value} GPU ({file} is missing); plan for it with "
            "plan_only=true, only quantize with stages=[quantize,inspect], or run here with hw=cpu"
        )


def for_quantizing(job: Job) -> None:
    """As many GPUs as calib.devices says."""
    processes = artifact.quantizing_processes(job)
    if processes > 1 and processes > (gpus := len(identity.machine()["gpus"])):
        raise ValueError(
            f"calib.devices={processes}: this machine has {gpus} NVIDIA GPUs; use calib.devices={max(gpus, 1)}"
        )
