"""Quality, through the server if there is one, else in this process: texts, tasks, long context, stability."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qforge.config.places import given_path
from qforge.envs.request import Request, stage
from qforge.evaluation import divergence, garbage, long_context, mt_bench, stability, tasks
from qforge.evaluation.perplexity import summary, windows
from qforge.evaluation.scorers import Scored, Scorer, Server, Transformers
from qforge.evaluation.tokenizer import load


def evaluate(request: Request) -> dict[str, Any]:
    """Returns what each part says in its own file's words: perplexity, tasks, long_context, stability, chat.

    Writes divergence.FILE, the distributions on the first windows, for the comparison with bf16.
    """
    job = request.job.eval
    server = Server(request) if request.server else None
    scorer: Scorer = server or Transformers(request)
    tokenizer = load(request.inputs["artifact"], request.job)
    seconds: dict[str, float] = {}
    with _timed(seconds, "perplexity"):
        texts = _texts(request, scorer, tokenizer)
    with _timed(seconds, "tasks"):
        scored_tasks = tasks.run(job, *scorer.for_lm_eval()) if job.tasks else {}
    with _timed(seconds, "long_context"):
        long = long_context.measure(job.long_context, scorer, tokenizer) if job.long_context.lengths else None
    with _timed(seconds, "stability"):
        stable = stability.measure(job, server, tokenizer) if server and job.stability.prompts else None
    with _timed(seconds, "chat"):
        rated = mt_bench.measure(job.judge, server) if server and job.judge.base_url else None
    compared = {"file": divergence.FILE, "top_k": job.divergence.top_k, "windows": job.divergence.windows}
    return {
        "through": scorer.name,
        "unpacked": scorer.unpacked,
        "context": job.context,
        "lengths": job.lengths,
        "texts": texts,
        "tops": compared if job.divergence.windows else None,
        "tasks": scored_tasks,
        "long_context": long,
        "stability": stable,
        "chat": rated,
        "seconds": seconds,
        "versions": {name: importlib.metadata.version(name) for name in ("lm-eval", "transformers", "torch")},
    }


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[part] = round(time.monotonic() - started, 1)


def _texts(request: Request, scorer: Scorer, tokenizer: Any) -> dict[str, Any]:
    from tqdm import tqdm

    job = request.job.eval
    lengths = [int(part * job.context) for part in job.lengths]
    results, compared = {}, {}
    for name, text in job.texts.items():
        content = given_path(text.path).read_bytes()
        cut = windows(content.decode(), tokenizer, lengths, job.windows)

        def score(window: tuple[int, list[int]]) -> Scored:
            return scorer.score(window[1], job.divergence.top_k if window[0] < job.divergence.windows else 0)

        with ThreadPoolExecutor(scorer.parallel) as pool:
            scores = list(tqdm(pool.map(score, enumerate(cut)), total=len(cut), desc=f"perplexity {name}"))
        losses = [window.losses for window in scores]
        garbage.refuse(name, cut, losses, scorer)
        compared[name] = scores[: job.divergence.windows]
        results[name] = {
            **summary(losses),
            "kind": text.kind,
            "sha256": hashlib.sha256(content).hexdigest(),
            "windows_sha256": hashlib.sha256(repr(cut).encode()).hexdigest(),
        }
    if job.divergence.windows:
        divergence.save(Path(request.out), compared)
    return results


if __name__ == "__main__":
    stage(evaluate)
