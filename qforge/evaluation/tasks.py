"""Tasks, scored by lm-eval: any of its own by name, task files of ours for machines without a hub, and the user's questions.

A task file (data/tasks/*.yaml) names one of lm-eval's own under `include`, relative to lm_eval/tasks, and says where the
data are instead; prompts, targets, metrics and filters are then lm-eval's by construction. A file of questions (questions.py)
needs no lm-eval. What is answered in words is asked in chat where the model has a template (eval.chat); likelihoods never are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from qforge.config import given_files
from qforge.config.evaluation import Eval
from qforge.config.places import given_path
from qforge.envs.lifetime import importing
from qforge.evaluation import answered, garbage, own_tasks, questions
from qforge.evaluation.asking import Chat
from qforge.evaluation.scorers import Scorer

YAML = ".yaml"


def by_name(settings: Eval) -> list[str]:
    """The tasks that are lm-eval's own, and no files."""
    return [task for task in settings.tasks if not task.endswith((YAML, questions.ENDING))]


def data_files(settings: Eval) -> list[Path]:
    """The task files and files of questions of a configuration, and the data they name."""
    files = [given_path(task) for task in settings.tasks if task.endswith((YAML, questions.ENDING))]
    named = [path for file in files if file.suffix == YAML for path in _data(settings, file).values()]
    return [*files, *named]


def _data(settings: Eval, file: Path) -> dict[str, Path]:
    """Where each split of a task file lies: in eval.task_data if that is given, else beside the file."""
    folder = given_path(settings.task_data) if settings.task_data else file.parent
    try:
        text = given_files.text(file, "eval.tasks")
        content = yaml.load(text, Loader=yaml.BaseLoader)  # strings only: a tag of lm-eval's is no error
        named = content["dataset_kwargs"]["data_files"].items()
    except yaml.YAMLError as error:
        raise ValueError(f"eval.tasks: {file}: is no YAML: {' '.join(str(error).split())}; mend it") from None
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"eval.tasks: {file}: does not say where its data are; give dataset_kwargs: {{data_files: {{test: FILE}}}}, as "
            "data/tasks/gsm8k.yaml does, or name a task of lm-eval"
        ) from None
    return {split: folder / name for split, name in named}


def task(settings: Eval, name: str) -> str | dict[str, Any]:
    """A task as lm-eval takes it: one of its own by name, or the content of a task file of ours."""
    if not name.endswith(YAML):
        return name
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    file = given_path(name)
    content: dict[str, Any] = load_yaml(file, recursive=False)
    upstream = Path(lm_eval.tasks.__file__).parent / str(content.pop("include", ""))
    base: dict[str, Any] = load_yaml(upstream) if upstream.is_file() else {}
    data = {split: str(path) for split, path in _data(settings, file).items()}
    return {**base, **content, "dataset_kwargs": {"data_files": data}}


def run(
    settings: Eval, scorer: Scorer, tokenizer: Any, chat: Chat | None, judgements: Path | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score every task of `settings.tasks`, with lm-eval's own seeds, in chat what can be where `chat` is given.

    `judgements`: the journal of the judge, which rubrics need. Returns per task what `summary` keeps, and the records of all
    answers in chat (answered.py).
    """
    kept: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    for name in (task for task in settings.tasks if task.endswith(questions.ENDING)):
        kept[questions.name_of(name)], answers = own_tasks.run(settings, name, scorer, tokenizer, chat, judgements)
        records += answers
    lm_evals = [task(settings, name) for name in settings.tasks if not name.endswith(questions.ENDING)]
    in_chat = [each for each in lm_evals if chat and _generates(each)]
    if others := [each for each in lm_evals if each not in in_chat]:
        kept |= _scored(settings, others, *scorer.for_lm_eval())
    if in_chat and chat:
        answered_tasks, answers = _asked(settings, in_chat, chat)
        kept, records = kept | answered_tasks, records + answers
    for name, scored in kept.items():
        garbage.refuse_task(name, scored["metrics"])
    return kept, records


def _generates(each: str | dict[str, Any]) -> bool:
    """Whether a task, or every task of a group, is answered in words."""
    if isinstance(each, dict):
        return bool(each.get("output_type", "generate_until") == "generate_until")
    from lm_eval.tasks import TaskManager

    members = TaskManager().load([each])["tasks"].values()
    return all(member.get_config("output_type") == "generate_until" for member in members)


def _scored(settings: Eval, named: list[Any], model: Any, arguments: Any) -> dict[str, Any]:
    scores = _evaluated(settings, named, model, model_args=arguments)
    return {name: summary(samples, scores["results"][name]) for name, samples in scores["samples"].items()}


def _evaluated(settings: Eval, named: list[Any], model: Any, **options: Any) -> dict[str, Any]:
    with importing():
        from lm_eval import simple_evaluate

    scores: dict[str, Any] = simple_evaluate(
        model, tasks=named, limit=settings.limit, log_samples=True, bootstrap_iters=0, **options
    )
    return scores


def _asked(settings: Eval, named: list[Any], chat: Chat) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """lm-eval's tasks in chat, once for every seed."""
    with importing():
        from qforge.evaluation.chat_model import ChatModel

    model = ChatModel(chat, settings.seeds)
    by_seed: list[dict[str, Any]] = []
    records: dict[str, list[dict[str, Any]]] = {}
    for model.seed in range(settings.seeds):
        scores = _evaluated(settings, named, model, apply_chat_template=True)
        by_seed.append({n: summary(samples, scores["results"][n]) for n, samples in scores["samples"].items()})
        for name, samples in scores["samples"].items():
            records.setdefault(name, []).extend(_records(name, samples, model))
    tasks = {
        name: {
            **answered.across([one[name] for one in by_seed]),
            "asked": answered.account(records[name], settings.seeds),
        }
        for name in by_seed[0]
    }
    return tasks, [one for answers in records.values() for one in answers]


def _records(name: str, samples: list[dict[str, Any]], model: Any) -> list[dict[str, Any]]:
    """One record for each document: lm-eval has a sample of it for every filter."""
    found: dict[int, dict[str, Any]] = {}
    for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
        context = sample["arguments"][0][0]
        suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
        scores = {
            f"{metric}{suffix}": float(sample[metric]) for metric in sample["metrics"] if _is_number(sample[metric])
        }
        if sample["doc_id"] in found:
            found[sample["doc_id"]]["scores"] |= scores
        else:
            found[sample["doc_id"]] = answered.record(
                name, str(sample["doc_id"]), model.seed, json.loads(context), str(sample["target"]),
                model.answers[model.seed, context], scores,
            )  # fmt: skip
    return list(found.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int)


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
            if _is_number(sample[metric]):
                per_sample.setdefault(f"{metric}{suffix}", []).append(float(sample[metric]))
    return {
        "metrics": values,
        "samples": len({sample["doc_id"] for sample in samples}),
        "prompt_hashes": hashlib.sha256("".join(s["prompt_hash"] for s in ordered).encode()).hexdigest(),
        "sample_hashes": list({s["doc_id"]: s["doc_hash"][:16] for s in ordered}.values()),
        "per_sample": {metric: scores for metric, scores in per_sample.items() if metric in values},
    }
