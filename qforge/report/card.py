"""The front matter of a model card: what hubs read of a checkpoint, https://huggingface.co/docs/hub/model-cards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from qforge.config.job import Job

Row = dict[str, Any]


def metadata(job: Job, row: Row, licence: str | None) -> str:
    """As YAML: of which model it is, under which licence, in which format, and what was measured under which conditions."""
    base = job.model.base or job.model.hub
    found = {
        "license": licence,
        "base_model": base,
        "base_model_relation": "quantized" if base else None,
        "pipeline_tag": "text-generation",
        "tags": ["quantized", "qforge", *filter(None, [row["layout"]]), "vllm"],
        "model-index": [{"name": f"{row['model']}-{row['method']}", "results": results}]
        if (results := list(_results(row)))
        else None,
    }
    given = {key: value for key, value in found.items() if value}
    return str(yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=1000))


def _results(row: Row) -> Iterator[dict[str, Any]]:
    """Each text and each task that was judged, as hubs want evaluation results: task, dataset, metric."""
    evaluate, conditions = row["measured"]["evaluate"], row["conditions"]
    theirs = (row.get("baseline") or {}).get("evaluate") or {}
    for name, text in (evaluate.get("texts") or {}).items():
        other = theirs.get("texts", {}).get(name)
        how = f"{conditions['windows']} windows of {conditions['context']} tokens"
        yield _result(name, how, "perplexity", text["perplexity"], other and other["perplexity"])
    for name, task in (evaluate.get("tasks") or {}).items():
        if metric := task.get("judged"):
            other = theirs.get("tasks", {}).get(name)
            yield _result(
                name,
                f"{task['samples']} questions",
                metric,
                task["metrics"][metric],
                other and other["metrics"].get(metric),
            )


def _result(name: str, how: str, metric: str, value: float, original: float | None) -> dict[str, Any]:
    beside = "" if original is None else f", {original:.4g} for the original under the same conditions"
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": f"{name}, {how}", "type": name},
        "metrics": [{"type": metric, "value": value, "name": f"{metric}{beside}"}],
    }
