"""The bf16 model of a run: the user's own folder, or fetched once into the store."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from qforge.config.decides import decided_by
from qforge.config.job import repository_path
from qforge.console import progress_line
from qforge.envs import interpreters, uv
from qforge.inspect import finite
from qforge.json_files import write_json
from qforge.models.checkpoint import headers
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.store.results import code


def known_model(run: Run) -> Path | None:
    """The model's folder if it is on this machine: the user's own, or fetched by an earlier run."""
    model = run.job.model
    if model.path:
        folder = Path(os.path.expanduser(model.path)).absolute()
        if not (folder / "config.json").is_file():
            fault = "has no config.json" if folder.is_dir() else "no such folder"
            raise ValueError(f"model.path={model.path}: {fault}; give the folder of a Hugging Face checkpoint")
        return folder
    stored = run.store.find("fetch", _key(run))
    return stored / "model" if stored else None


def fetch(run: Run) -> Path:
    """The bf16 checkpoint's folder."""
    if run.job.model.path and (folder := known_model(run)):
        return folder
    return run.get("fetch", _key(run), lambda out: _fetch(run, out), run.job.model.name) / "model"


def _key(run: Run) -> dict[str, Any]:
    model = run.job.model
    shape = hashlib.sha256(repository_path(str(model.architecture)).read_bytes()).hexdigest() if model.random else None
    what = {"job": decided_by(run.job, "fetch"), "shape": shape}
    return {**what, "code": code("qforge.stages.fetch"), "env": interpreters.identity(QUANT_ENV, run.job)}


def _fetch(run: Run, out: Path) -> None:
    where = interpreters.named(QUANT_ENV, run.job)
    with progress_line("fetch", run.job.model.name) as line:
        packages = out / "packages"
        for package in run.job.model.gguf.packages if run.job.model.gguf else []:
            uv.install_packages([package], packages / package.partition("==")[0], run.folder / "fetch-packages.log")
        run.stage("fetch", where, out, line.feed, inputs={"packages": str(packages)})
        shutil.rmtree(packages, ignore_errors=True)


def refuse_not_finite(run: Run, source: Path) -> None:
    """Raises ValueError where the source holds NaN or infinity; looked at once, before it is quantized."""
    key = {"source": run.fingerprint(source), "code": code("qforge.inspect.finite")}

    def build(out: Path) -> None:
        with progress_line("source", "NaN and infinity") as line:
            tensors = headers(source)
            if broken := finite.broken(tensors.items()):
                raise ValueError(
                    f"model={run.job.model.name}: {broken[0]} in {source} holds NaN or infinity ({len(broken)} of "
                    f"{len(tensors)} tensors do), so every quantized form of it would be garbage; use another copy of the model"
                )
            line.note = f"{len(tensors)} tensors are finite"
        write_json(out / "result.json", {"tensors": len(tensors)})

    if not run.job.model.random and run.store.find("source", key) is None:
        run.get("source", key, build, run.job.model.name)
