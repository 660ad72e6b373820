"""Quality: perplexity on every text and the tasks, through the server if there is one, else in this process."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qforge.config import repository_path
from qforge.perplexity import summary, windows
from qforge.request import API_KEY, Request, stage
from qforge.runtimes.vllm import MODEL

Score = Callable[[list[int]], list[float]]  # token ids of a window -> -log p of every token but the first


def evaluate(request: Request) -> dict[str, Any]:
    """Returns perplexity per text with per-window losses, and the tasks' metrics as lm-eval names them."""
    from tqdm import tqdm
    from transformers import AutoTokenizer

    job = request.job
    tokenizer = AutoTokenizer.from_pretrained(request.inputs["artifact"])
    model, score = _through_server(request) if request.server else _in_process(request)
    texts = {}
    parallel = job.eval.concurrency if request.server else 1
    for name, text in job.eval.texts.items():
        content = repository_path(text.path).read_bytes()
        cut = windows(content.decode(), tokenizer, job.eval.context, job.eval.windows)
        with ThreadPoolExecutor(parallel) as pool:
            losses = list(tqdm(pool.map(score, cut), total=len(cut), desc=f"perplexity {name}"))
        scored = hashlib.sha256(repr(cut).encode()).hexdigest()
        texts[name] = {
            **summary(losses),
            "kind": text.kind,
            "sha256": hashlib.sha256(content).hexdigest(),
            "windows_sha256": scored,
        }
    return {
        "through": "server" if request.server else "transformers",
        "context": job.eval.context,
        "texts": texts,
        "tasks": _tasks(request, model) if job.eval.tasks else {},
        "versions": {name: importlib.metadata.version(name) for name in ("lm-eval", "transformers", "torch")},
    }


def _through_server(request: Request) -> tuple[Any, Score]:
    import httpx

    assert request.server
    url, key = request.server, os.environ[API_KEY]
    client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=900)

    def score(ids: list[int]) -> list[float]:
        body = {"model": MODEL, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choice = client.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]
        # one entry per token: {token id: {"logprob": ...}}; none for the first
        return [
            -entry[str(token)]["logprob"] for token, entry in zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)
        ]

    os.environ["OPENAI_API_KEY"] = key
    arguments = {
        "model": MODEL,
        "base_url": f"{url}/v1/completions",
        "tokenizer": request.inputs["artifact"],
        "tokenizer_backend": "huggingface",
        "num_concurrent": request.job.eval.concurrency,
        "max_length": int(request.job.runtime.args["max_model_len"]),
    }
    return ("local-completions", arguments), score


def _in_process(request: Request) -> tuple[Any, Score]:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    artifact = request.inputs["artifact"]
    model = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.bfloat16).eval()

    def score(ids: list[int]) -> list[float]:
        tokens = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            logits = model(tokens).logits[0, :-1].float()
        return list(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none").tolist())

    return (HFLM(pretrained=model, tokenizer=artifact, batch_size=1), None), score


def _tasks(request: Request, model: tuple[Any, Any]) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    tasks = [_task(name) if name.endswith(".yaml") else name for name in request.job.eval.tasks]
    engine, arguments = model
    found = simple_evaluate(
        engine, model_args=arguments, tasks=tasks, limit=request.job.eval.limit, log_samples=True, bootstrap_iters=0,
        random_seed=0, numpy_random_seed=0, torch_random_seed=0, fewshot_random_seed=0,
    )  # fmt: skip
    return {name: _task_result(samples, found["results"][name]) for name, samples in found["samples"].items()}


def _task(name: str) -> dict[str, Any]:
    """A task file of ours; its data files lie beside it."""
    import yaml

    file = repository_path(name)
    task: dict[str, Any] = yaml.safe_load(file.read_text())
    files = task["dataset_kwargs"]["data_files"]
    task["dataset_kwargs"]["data_files"] = {split: str(file.parent / data) for split, data in files.items()}
    return task


def _task_result(samples: list[dict[str, Any]], metrics: dict[str, Any]) -> dict[str, Any]:
    """The task's metrics and, to compare two models sample by sample, what each sample scored.

    lm-eval names a metric `metric,filter`; the filter stays in the name unless it is `none`. A group of tasks (mmlu)
    has its results at its members, which are what comes here.
    """
    values = {
        key.removesuffix(",none"): value
        for key, value in metrics.items()
        if isinstance(value, float | int) and "," in key and "_stderr" not in key
    }
    per_sample: dict[str, list[float]] = {}
    for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
        suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
        for metric in sample["metrics"]:
            if isinstance(sample[metric], float | int):
                per_sample.setdefault(f"{metric}{suffix}", []).append(float(sample[metric]))
    prompts = [s["prompt_hash"] for s in sorted(samples, key=lambda s: (int(s["doc_id"]), s["filter"]))]
    return {
        "metrics": values,
        "samples": len({sample["doc_id"] for sample in samples}),
        "prompt_hashes": hashlib.sha256("".join(prompts).encode()).hexdigest(),
        "per_sample": {metric: scores for metric, scores in per_sample.items() if metric in values},
    }


if __name__ == "__main__":
    stage(evaluate)
