"""What a model with towers asks of the environment that serves it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qforge import json_files
from qforge.config.job import Engine, Job
from qforge.config.places import ROOT, given_path
from qforge.models.modules import BESIDE, Module

SERVING = {"serve", "evaluate", "bench", "judge"}
PARTS = {"vision_config", "audio_config", "thinker_config"}  # of a config.json
PACKAGE = "torchvision"  # which transformers' processors import, and with them vLLM's classes


def present(tree: Sequence[Module]) -> bool:
    """Whether the model has parts beside its text core."""
    return any(m.kind in BESIDE for m in tree)


def served_by(job: Job, tree: Sequence[Module]) -> Job:
    """The job, with the environment that its runtime has for a model like this."""
    runtime = job.runtime
    if not runtime.towers or not present(tree):
        return job
    return replace(job, runtime=replace(runtime, env=runtime.towers))


def environments(job: Job) -> set[str | None]:
    """Those that may serve the model: both while nothing is known of it, as of one that is on a hub."""
    runtime, model = job.runtime, job.model
    file = Path(os.path.expanduser(model.path), "config.json") if model.path else None
    file = file or (given_path(model.architecture) if model.architecture else None)
    if file is None or not file.is_file():
        return {runtime.env, runtime.towers}
    return {(runtime.towers or runtime.env) if PARTS & json_files.read_json(file).keys() else runtime.env}


def refuse(job: Job, tree: Sequence[Module]) -> None:
    """Raises ValueError where vLLM would fail to import the model's class (ran: 0.32 on a CPU, Gemma 3, Mistral 3, Qwen2.5-VL,
    Qwen3-VL, Qwen3.5, LLaVA). What an environment of the user's has is not known here."""
    env = served_by(job, tree).runtime.env
    if job.runtime.engine is not Engine.vllm or env is None or env in job.envs or not SERVING & set(job.stages):
        return
    if not present(tree):
        return
    packages = (ROOT / "envs" / f"{env}.txt").read_text().splitlines()
    if not any(line.startswith(f"{PACKAGE}==") for line in packages):
        raise ValueError(
            f"runtime={job.runtime.name} model={job.model.name}: it has towers, and vLLM's classes of such models import "
            f"{PACKAGE}, which this environment does not have; use stages=[quantize,inspect], runtime.towers=ENV with one "
            "that has it, hw=... of a GPU, or runtime=existing with a Python that has it"
        )
