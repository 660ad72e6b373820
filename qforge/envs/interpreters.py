"""Which Python a stage runs in: the managed environment, or an existing interpreter that the job names in its place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from qforge.config import secrets
from qforge.config.job import Job
from qforge.config.places import readable, store_path
from qforge.envs import containers, managed
from qforge.envs.containers import Container
from qforge.envs.process import Environment

INSTALLED = Path(__file__).with_name("installed.py")


def named(name: str, job: Job) -> Environment:
    """The environment `name`: the interpreter that `envs.<name>` gives, or the managed one, made on first use."""
    return _given(name, job) or managed.managed(name)


def identity(name: str, job: Job) -> str:
    """What decides the versions of the environment `name`, without making it."""
    interpreter = _given(name, job)
    return interpreter.identity if interpreter else managed.identity(name)


def of_runtime(job: Job) -> Environment:
    """Where the runtime lives: somebody's own engine, an image, or an environment by name."""
    if job.runtime.container:
        return _contained(job)
    if job.runtime.python:
        return existing(job.runtime.python, job.runtime.environ, "runtime.python")
    return named(str(job.runtime.env), job)


def runtime_identity(job: Job) -> str:
    """What decides the versions of the runtime, without making it."""
    return identity(job.runtime.env, job) if job.runtime.env else of_runtime(job).identity


def made(name: str, job: Job) -> bool:
    """Whether the environment `name` can be used without making it."""
    return name in job.envs or managed.ready(name)


def runtime_made(job: Job) -> bool:
    """Whether the runtime can be used without making it."""
    return made(job.runtime.env, job) if job.runtime.env else True


def check(job: Job, measures: bool) -> None:
    """Raises ValueError where a given interpreter does not start, an image is not here, or an environment is not known.

    `measures`: whether the job needs its runtime at all.
    """
    speech = job.runtime.speech.env if job.runtime.speech else None
    for name in filter(None, [*job.envs, job.method.env, job.runtime.env, job.runtime.towers, speech]):
        managed.requirements(name)
    with ThreadPoolExecutor() as pool:  # each starts an interpreter
        runtime = pool.submit(of_runtime, job) if measures and not job.runtime.env else None
        for environment in [pool.submit(named, name, job) for name in job.envs]:
            environment.result()
        if runtime:
            runtime.result()


def existing(python: str, environ: Mapping[str, str], key: str) -> Environment:
    """Somebody's own interpreter, by its path or its name on PATH; its versions are read from it."""
    path = shutil.which(os.path.expanduser(python))
    if path is None:
        raise ValueError(f"{key}={python}: not an executable; give the path of a Python that has the packages")
    return Environment(Path(path), f"{path}-{_packages(path, key, tuple(sorted(environ.items())))}", None, environ)


def _contained(job: Job) -> Environment:
    """The image's Python. It reads qforge, the model and the artifact where they are, and writes into the store."""
    tool, image = containers.find(str(job.runtime.container))
    arguments = tuple(job.runtime.container_args)
    paths = [Path(os.path.expanduser(path)).absolute() for path in (job.model.path, job.artifact) if path]
    linked = {file.resolve().parent for folder in paths for file in folder.glob("*") if file.is_symlink()}
    store = store_path(job.store)
    container = Container(tool, image, arguments, (*readable(), *paths, *sorted(linked)), (store,))
    settings = json.dumps([arguments, sorted(job.runtime.environ.items())])  # they too decide what is found there
    identity = f"{image}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    environ = {**containers.compiled(image, store), **job.runtime.environ}
    return Environment(Path(sys.executable), identity, None, environ, container)


def _given(name: str, job: Job) -> Environment | None:
    if name not in job.envs:
        return None
    environ = dict(job.envs[name])
    if "python" not in environ:
        raise ValueError(f"envs.{name}: does not name the interpreter; add +envs.{name}.python=PATH")
    return existing(environ.pop("python"), environ, f"envs.{name}.python")


@cache  # asked for every key of a run; a start takes half a second
def _packages(python: str, key: str, environ: tuple[tuple[str, str], ...]) -> str:
    """A hash of the packages that this interpreter finds, and of the files of those that are imported from a checkout."""
    own = {**os.environ, "PYTHONPATH": "", **secrets.revealed(dict(environ))}
    completed = subprocess.run([python, str(INSTALLED)], capture_output=True, text=True, env=own)
    if completed.returncode:
        raise ValueError(f"{key}={python}: does not start: {completed.stderr.strip().splitlines()[-1:]}")
    return completed.stdout.strip()
