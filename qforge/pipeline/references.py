"""What a job names that is not in it: options, files, repositories, variables; and keys that only others make sense of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from packaging.requirements import InvalidRequirement, Requirement

from qforge.config.job import Job
from qforge.config.places import given_path, option_files
from qforge.json_files import read_json
from qforge.models.repository import NAME

VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
TOKENIZER_CONFIG = "tokenizer_config.json"
ARITHMETIC = ("bf16", "fp8", "fp4", "int8")  # that hw.tflops is given for


def check(job: Job) -> None:
    """Raises ValueError for the first reference that leads nowhere: the key, and the fix."""
    if fault := next(_faults(job), None):
        raise ValueError(fault)


def _faults(job: Job) -> Iterator[str]:
    yield from _of_model(job)
    yield from _of_method(job)
    yield from _of_variables(job)
    yield from _of_publish(job)
    if unknown := [name for name in job.hw.tflops if name not in ARITHMETIC]:
        yield f"hw.tflops.{unknown[0]}: no plan reads it; choose from {', '.join(ARITHMETIC)}"
    folder = job.eval.task_data
    if folder and not given_path(folder).is_dir():
        yield f"eval.task_data={folder}: no such folder; give one that exists, or leave it out"
    if job.rescore and not job.verify:
        yield f"rescore={job.rescore}: is of verify alone; add verify=PATH, or leave rescore out"
    others = {"artifact": job.artifact, "serve.keep": job.serve.keep, "plan_only": job.plan_only}
    for key in (key for key, given in others.items() if given and job.verify):
        yield f"verify={job.verify} {key}: verify checks an artifact and does nothing else; leave {key} out"


def _of_publish(job: Job) -> Iterator[str]:
    repo = job.publish.repo
    if repo is None:
        return
    if not NAME.fullmatch(repo) or "/" not in repo:
        yield f"publish.repo={repo!r:.100}: is not the name of a repository; use ORG/NAME"
    if not job.makes_checkpoint:
        yield f"publish.repo={repo}: this run makes no checkpoint; use a method that does, or leave it out"
    if not job.publish.anyway and not {"quantize", "inspect", "evaluate", "judge"} <= set(job.stages):
        yield (
            f"publish.repo={repo} stages={job.stages}: what was not judged is not uploaded; leave stages out, or set "
            "publish.anyway=true"
        )


def _of_model(job: Job) -> Iterator[str]:
    model = job.model
    if model.hub:
        if not NAME.fullmatch(model.hub):
            yield f"model.hub={model.hub!r:.100}: is not the name of a repository; use OWNER/NAME"
    elif model.revision:
        yield f"model.revision={model.revision}: is of model.hub alone; add model.hub=OWNER/NAME, or leave it out"
    if model.structure and not os.path.isfile(os.path.expanduser(model.structure)):
        yield f"model.structure={model.structure}: no such file; leave it out, and qforge makes it"
    if model.architecture:
        try:
            read_json(given_path(model.architecture))
        except (ValueError, OSError) as error:
            yield f"model.architecture={model.architecture}: {error}; give the config.json of a model"
    if model.gguf:
        yield from _packages("model.gguf.packages", model.gguf.packages)
        yield from _digest("model.gguf.sha256", model.gguf.sha256)
    others = {"deviations": model.deviations, "processor": model.processor}
    if given := next((key for key, value in others.items() if value and not model.random), None):
        yield f"model.{given}: is of random weights alone; add model.random=true, or leave it out"
    if model.processor:
        yield from _packages("model.processor.package", [model.processor.package])
        yield from _digest("model.processor.sha256", model.processor.sha256)
        if not (given_path(model.processor.folder) / TOKENIZER_CONFIG).is_file():
            yield f"model.processor.folder={model.processor.folder}: has no {TOKENIZER_CONFIG}; give a folder that has one"


def _packages(key: str, packages: Sequence[str]) -> Iterator[str]:
    for package in packages:
        try:
            pinned = str(Requirement(package).specifier).startswith("==")
        except InvalidRequirement:
            pinned = False
        if not pinned:
            yield f"{key}: {package!r:.100} is not a pinned package; use NAME==VERSION"


def _digest(key: str, sha256: str) -> Iterator[str]:
    if not SHA256.fullmatch(sha256):
        yield f"{key}={sha256!r:.100}: is not a SHA-256; give its 64 hexadecimal digits"


def _of_method(job: Job) -> Iterator[str]:
    method = job.method
    if method.function and not method.env:
        yield f"method.env={method.env}: method.function needs the environment that it runs in; use method.env=quant"
    for key in ("fallback", "instead"):
        name = getattr(method, key)
        if name and name not in option_files("method"):
            yield f"method.{key}={name!r:.100}: there is no conf/method/{name!s:.100}.yaml; name a method that exists"


def _of_variables(job: Job) -> Iterator[str]:
    groups = {"runtime.environ": job.runtime.environ}
    groups |= {f"envs.{env}": {k: v for k, v in given.items() if k != "python"} for env, given in job.envs.items()}
    for group, variables in groups.items():
        for name in variables:
            if not VARIABLE.fullmatch(name):
                yield f"{group}.{name!r:.100}: is no name of a variable; use letters, digits and _"
