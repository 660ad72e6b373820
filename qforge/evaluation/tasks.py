"""Tasks, scored by lm-eval: any of its own by name, and task files of ours for machines without a hub.

A task file (data/tasks/*.yaml) names one of lm-eval's own under `include`, relative to lm_eval/tasks, and says where the
data are instead; prompts, targets, metrics and filters are then lm-eval's by construction.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from qforge.config.evaluation import Eval
from qforge.config.places import given_path
from qforge.envs.lifetime import importing
from qforge.evaluation import garbage


def data_files(settings: Eval) -> list[Path]:
    """The task files of a configuration and the data they name."""
    files = [given_path(task) for task in settings.tasks if task.endswith(".yaml")]
    return [*files, *(path for file in files for path in _data(settings, file).values())]


def _data(settings: Eval, file: Path) -> dict[str, Path]:
    """Where each split of a task file lies: in eval.task_data if that is given, else beside the file."""
    folder = given_path(settings.task_data) if settings.task_data else file.parent
    content = yaml.load(file.read_text(), Loader=yaml.BaseLoader)  # strings only: a tag of lm-eval's is no error
    return {split: folder / name for split, name in content["dataset_kwargs"]["data_files"].items()}


def task(settings: Eval, name: str) -> str | dict[str, Any]:
    """A task as lm-eval takes it: one of its own by name, or the content of a task file of ours."""
    if not name.endswith(".yaml"):
        return name
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    file = given_path(name)
    content: dict[str, Any] = load_yaml(file, recursive=False)
    upstream = Path(lm_eval.tasks.__file__).parent / str(content.pop("include", ""))
    base: dict[str, Any] = load_yaml(upstream) if upstream.is_file() else {}
    data = {split: str(path) for split, path in _data(settings, file).items()}
    return {**base, **content, "dataset_kwargs": {"data_files": data}}


def run(settings: Eval, model: Any, arguments: Any) -> dict[str, Any]:
    """Score every task of `settings.tasks`, with lm-eval's own seeds. Returns per task what `summary` keeps."""
    with importing():
        from lm_eval import simple_evaluate

    scores = simple_evaluate(
        model, model_args=arguments, tasks=[task(settings, name) for name in settings.tasks], limit=settings.limit,
        log_samples=True, bootstrap_iters=0,
    )  # fmt: skip
    kept = {name: summary(samples, scores["results"][name]) for name, samples in scores["samples"].items()}
    for name, scored in kept.items():
        garbage.refuse_task(name, scored["metrics"])
    return kept


def summary(samples: list[dict[str, Any]], metrics: dict[str, Any]) -> dict[str, Any]:
    """The task's metrics and, to compare two models sample by sample, what each sample scored.

    lm-eval names a metric `metric,filter`; the filter stays in the name unless it is `none`. A group of tasks (mmlu)
    has its results at its members, which are what comes here.
    """
    values = {
        key.removesuffix(",none"): value
        for key, value in metrics.items()
        if isinstance(value, float | int) and "," in key and "_stderr" not in key
    }
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    per_sample: dict[str, list[float]] = {}
    for sample in ordered:
        suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
        for metric in sample["metrics"]:
            if isinstance(sample[metric], float | int):
                per_sample.setdefault(f"{metric}{suffix}", []).append(float(sample[metric]))
    return {
        "metrics": values,
        "samples": len({sample["doc_id"] for sample in samples}),
        "prompt_hashes": hashlib.sha256("".join(s["prompt_hash"] for s in ordered).encode()).hexdigest(),
        "sample_hashes": list({s["doc_id"]: s["doc_hash"][:16] for s in ordered}.values()),
        "per_sample": {metric: scores for metric, scores in per_sample.items() if metric in values},
    }
