"""A model whose type has no file here: what it is made of, asked of transformers once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from qforge.console import progress_line
from qforge.envs import interpreters
from qforge.envs.process import StageError
from qforge.json_files import write_json
from qforge.models import metadata
from qforge.pipeline.run import QUANT_ENV, Run
from qforge.report.terminal import warn
from qforge.store.results import code


def known(run: Run, folder: Path | None) -> Run:
    """The run, its job with `model.structure` where names alone do not say what the model's matrices are.

    A model that transformers fails to build is planned by the names alone.
    """
    model = replace(run.job.model, structure=None)
    run = run.beside(replace(run.job, model=model), run.prefix)
    method = run.job.method
    unclear = metadata.unclear(model, folder, loaded=method.env == QUANT_ENV and not method.streams)
    if unclear is None:
        return run
    try:
        made = run.get("structure", _key(run, *unclear), lambda out: _ask(run, folder, *unclear, out), model.name)
    except StageError as error:
        warn(f"the roles of this model's tensors are read from their names only: {error}")
        return run
    return run.beside(replace(run.job, model=replace(model, structure=str(made / "result.json"))), run.prefix)


def _key(run: Run, config: dict[str, Any], names: dict[str, list[int]] | None) -> dict[str, Any]:
    inputs = json.dumps([config, names], sort_keys=True).encode()
    return {
        "asked": hashlib.sha256(inputs).hexdigest(), "trusted": run.job.model.trust_remote_code,
        "code": code("qforge.stages.structure"), "env": interpreters.identity(QUANT_ENV, run.job),
    }  # fmt: skip


def _ask(run: Run, folder: Path | None, config: dict[str, Any], names: dict[str, list[int]] | None, out: Path) -> None:
    write_json(out / "config.json", config)
    inputs = {"model": str(folder or (run.job.model.hub if run.job.model.trust_remote_code else None) or out)}
    if names is not None:
        write_json(out / "names.json", names)
        inputs["names"] = str(out / "names.json")
    with progress_line("structure", run.job.model.name) as line:
        run.stage("structure", interpreters.named(QUANT_ENV, run.job), out, line.feed, inputs=inputs)
