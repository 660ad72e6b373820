"""The texts that calibration shows, and the sequences made of them. Rows of a data set are fetched once, into the store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from qforge.config.calibration import CalibrationText
from qforge.config.decides import decided_by
from qforge.config.job import Job
from qforge.config.places import given_path
from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.models import checkpoint
from qforge.pipeline.run import Run
from qforge.store.results import code, of, result

ENV = "quant"  # loads data sets and tokenizes


def calibrate(run: Run, source: Path) -> Path:
    """The folder with the sequences."""
    calib = run.job.calib
    for name, text in calib.texts.items():
        if text.dataset:
            _fetch(run, name, text)
    text_files = files(run.job)
    texts = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in text_files.items()}
    key = {
        "texts": texts, "job": decided_by(run.job, "calibrate"), "tokenizer": checkpoint.small_files(source),
        "code": code("qforge.stages.calibrate"), "env": interpreters.identity(ENV, run.job),
    }  # fmt: skip
    detail = f"{calib.sequences} x {calib.length} tokens of {', '.join(calib.texts)}"

    inputs = {f"text {name}": str(file) for name, file in text_files.items()}

    def build(out: Path) -> None:
        where = interpreters.named(ENV, run.job)
        with progress_line("calibrate", detail) as line:
            run.stage("calibrate", where, out, line.feed, inputs={"source": str(source), **inputs})

    folder = run.get("calibrate", key, build, detail)
    run.write("calibrate.json", result(folder))
    return folder


def files(job: Job) -> dict[str, Path]:
    """Where each text lies; that of a data set, where it will once it was fetched."""
    return {
        name: _place(job, text) / "text" if text.dataset else given_path(text.path)
        for name, text in job.calib.texts.items()
    }


def _place(job: Job, text: CalibrationText) -> Path:
    return of(job).place("dataset", _key(text))


def _key(text: CalibrationText) -> dict[str, Any]:
    return {"text": decided_by(text, "dataset", "calib.texts.*"), "code": code("qforge.stages.dataset")}


def _fetch(run: Run, name: str, text: CalibrationText) -> None:
    assert text.dataset
    detail = f"{text.dataset.rows} rows of {text.dataset.name}"

    def build(out: Path) -> None:
        with progress_line("dataset", detail) as line:
            run.stage("dataset", interpreters.named(ENV, run.job), out, line.feed, inputs={"text": name})

    run.get("dataset", _key(text), build, detail)
