"""Is an artifact still what it says: its files, its plan, its tensors, the versions it was made with, its score."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from qforge.config.compose import committed, read_job
from qforge.config.job import Job
from qforge.envs import managed
from qforge.inspect.artifact import Verified, plan_faults, tensor_faults
from qforge.json_files import read_json
from qforge.pipeline import fetch, structure
from qforge.pipeline.measure import measure
from qforge.pipeline.run import Run
from qforge.plan import plan
from qforge.plan.plan import Plan
from qforge.store import provenance

# of a runtime: what decides which code a server runs
STARTS = ("python", "container", "container_args", "args", "environ")
SAME_SCORE = 0.005  # of the perplexity: what two ways of scoring one checkpoint may be apart


def verify(request: Job, folder: Path) -> Verified:
    """Check the artifact `request.verify` against what lies in its qforge/. Raises ValueError where that is no artifact."""
    artifact = Path(os.path.expanduser(str(request.verify)))
    verified = Verified(provenance.verify(artifact), checked=["the hash of every file"])
    if verified.faults:
        return verified  # what has changed is not read
    try:
        job = _of_others(read_job(artifact / "qforge/job.json"), request)
    except OmegaConfBaseException as error:
        verified.differs.append(
            f"its job.json is of another version of qforge ({error.full_key}: {str(error).splitlines()[0]}), so that only "
            "the hashes were checked; for the rest use the commit that its row.json names"
        )
        return verified
    run = Run(job, folder)
    source = fetch.known_model(run) if not job.model.path or Path(job.model.path).is_dir() else None
    if source is None and job.model.architecture is None:
        verified.differs.append(f"the model {job.model.name} is not on this machine: only the hashes were checked")
        return verified
    run = structure.known(run, source)
    planned = plan.make(run.job, source)
    verified.faults += plan_faults(planned, artifact)
    verified.checked.append("the plan, recomputed from its job")
    verified.faults += tensor_faults(planned, artifact, source)
    verified.checked.append(f"every tensor against the plan{' and against the source' if source else ''}")
    verified.differs += [*_versions(artifact, job), *_commit(artifact)]
    if not source:
        verified.differs.append(f"the model {job.model.name} is not on this machine: values were not compared with it")
    if request.rescore:
        verified.faults += _score_faults(run, planned, artifact, request.rescore)
        verified.checked.append(f"the score of {request.rescore} windows of each text")
    return verified


def _of_others(job: Job, request: Job) -> Job:
    """The artifact's own job. Its author is not known: which code runs is said by who checks it, never by the job.

    Raises ValueError where scoring again would start what the request does not name.
    """
    if request.rescore:
        asked, ours = _starts(request), _starts(_committed(job))
        if named := [key for key, value in _starts(job).items() if value not in (asked.get(key), ours.get(key))]:
            raise ValueError(
                f"rescore={request.rescore}: the artifact's job has a {named[0]} of its own, which could start anything; if "
                f"you trust it give the same on the command line (it was runtime={job.runtime.name} hw={job.hw.name})"
            )
    model = replace(job.model, trust_remote_code=request.model.trust_remote_code)
    return replace(job, store=request.store, envs=request.envs, model=model)


def _starts(job: Job | None) -> dict[str, Any]:
    """What of a job decides which code its server runs, by key."""
    if job is None:
        return {}
    return {**{f"runtime.{name}": getattr(job.runtime, name) for name in STARTS}, "hw.args": job.hw.args}


def _committed(job: Job) -> Job | None:
    """A job with the runtime and the hardware of these names as qforge has them; none where it has none that is complete."""
    try:
        return committed(f"runtime={job.runtime.name}", f"hw={job.hw.name}")
    except (ValueError, OmegaConfBaseException, HydraException):
        return None


def _versions(artifact: Path, job: Job) -> Iterator[str]:
    """Libraries that have another version in today's environment than the quantizer had."""
    file = artifact / "qforge/quantize.json"
    if not file.exists() or job.method.env is None:
        return
    today = managed.pins(job.method.env)
    for name, then in read_json(file)["versions"].items():
        if name in today and then.partition("+")[0] != today[name].partition("+")[0]:
            yield f"{name}: {then} when it was made, {today[name]} in envs/{job.method.env}.txt today"


def _commit(artifact: Path) -> Iterator[str]:
    then, now = read_json(artifact / "qforge/row.json")["qforge"], provenance.commit()
    if then["commit"] != now["commit"]:
        yield f"qforge: commit {then['commit']} when it was measured, {now['commit']} today"


def _score_faults(run: Run, planned: Plan, artifact: Path, windows: int) -> Iterator[str]:
    """Score the first windows of each text again, by the job's own runtime, and compare with what is written."""
    file = artifact / "qforge/evaluate.json"
    then = read_json(file) if file.exists() else {}
    if "texts" not in then:
        raise ValueError(f"verify={artifact} rescore={windows}: it has no measured quality; leave rescore out")
    settings = run.job.eval
    few = replace(
        settings, windows=min(windows, settings.windows), tasks=[], kv_dtypes=[],
        divergence=replace(settings.divergence, windows=0),
        long_context=replace(settings.long_context, lengths=[]), stability=replace(settings.stability, prompts=None),
        judge=replace(settings.judge, base_url=None), own_answers=replace(settings.own_answers, prompts=None),
    )  # fmt: skip
    job = replace(run.job, artifact=str(artifact), eval=few, stages=["serve", "evaluate"])
    now = measure(Run(job, run.folder), planned, artifact)["evaluate"]
    for name, text in now["texts"].items():
        count = len(text["window_loss"])
        was = sum(then["texts"][name]["window_loss"][:count]) / sum(then["texts"][name]["window_tokens"][:count])
        apart = sum(text["window_loss"]) / sum(text["window_tokens"]) - was
        if abs(apart) > SAME_SCORE:
            yield f"perplexity of {name}, first {count} windows: {100 * apart:+.1f} % from what was measured"
