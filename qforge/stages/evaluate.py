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

from qforge.config.evaluation import Eval
from qforge.config.places import given_path
from qforge.envs.request import Request, stage
from qforge.evaluation import (
    answered,
    chat_judge,
    divergence,
    garbage,
    long_context,
    mt_bench,
    own_answers,
    questions,
    stability,
    tasks,
)
from qforge.evaluation.asking import Chat
from qforge.evaluation.perplexity import summary, windows
from qforge.evaluation.scorers import Scored, Scorer, Server, Transformers
from qforge.evaluation.tokenizer import load

ASKING = (
    "system",
    "thinking",
    "seeds",
    "temperature",
    "top_p",
    "answer_tokens",
)  # of eval, what decides an answer in chat


def evaluate(request: Request) -> dict[str, Any]:
    """Returns what each part says in its own file's words: perplexity, tasks, long_context, stability, chat.

    Writes divergence.FILE, the distributions on the first windows, and answered.FILE, every answer in chat, for the comparison
    with bf16.
    """
    job = request.job.eval
    server = Server(request) if request.server else None
    scorer: Scorer = server or Transformers(request)
    tokenizer = load(request.inputs["artifact"], request.job)
    chat = _chat(request, server, tokenizer)
    judged = server is not None and job.judge.base_url is not None
    if judged:
        chat_judge.Judge(job.judge).greet()  # one that is away is refused before anything is measured
    seconds: dict[str, float] = {}
    with _timed(seconds, "perplexity"):
        texts, compared = _texts(request, scorer, tokenizer)
    own = None
    with _timed(seconds, "own_answers"):
        if job.own_answers.prompts:
            own, compared[own_answers.NAME] = own_answers.measure(
                job, scorer, tokenizer, Path(request.out), request.inputs.get("own_answers")
            )
    if compared:
        divergence.save(Path(request.out), compared)
    with _timed(seconds, "tasks"):
        judgements = Path(request.inputs["judgements"]) if judged else None
        scored_tasks, records = tasks.run(job, scorer, tokenizer, chat, judgements) if job.tasks else ({}, [])
        answered.write(Path(request.out, answered.FILE), records)
    with _timed(seconds, "long_context"):
        long = long_context.measure(job.long_context, scorer, tokenizer) if job.long_context.lengths else None
    with _timed(seconds, "stability"):
        stable = stability.measure(job, server, tokenizer) if server and job.stability.prompts else None
    with _timed(seconds, "chat"):
        rated = None
        if server and job.judge.rates_mt_bench:
            rated = mt_bench.measure(job.judge, server, Path(request.out), request.inputs.get("conversations"))
    tops = {"file": divergence.FILE, "top_k": job.divergence.top_k, "windows": job.divergence.windows}
    return {
        "through": scorer.name,
        "unpacked": scorer.unpacked,
        "context": job.context,
        "lengths": job.lengths,
        "texts": texts,
        "tops": tops if job.divergence.windows else None,
        "own_answers": own,
        "tasks": scored_tasks,
        "asking": _asking(job) if records else None,
        "long_context": long,
        "stability": stable,
        "chat": rated,
        "seconds": seconds,
        "versions": {name: importlib.metadata.version(name) for name in ("lm-eval", "transformers", "torch")},
    }


def _asking(settings: Eval) -> dict[str, Any]:
    """How answers in chat were asked for, under the names of the keys."""
    return {name: getattr(settings, name) for name in ASKING}


def _chat(request: Request, server: Server | None, tokenizer: Any) -> Chat | None:
    """What is asked as users ask: where eval.chat says so, or says nothing and the model has a template."""
    wanted = request.job.eval.chat
    if server is None or not request.job.eval.tasks or wanted is False:
        return None
    if wanted is None and tokenizer.chat_template is None:
        return None
    chat = Chat(server, request.job.eval, tokenizer, Path(request.inputs["asked"]))
    if wanted or any(task.endswith(questions.ENDING) for task in request.job.eval.tasks):
        chat.check()  # now, and not when all else is measured
    return chat


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[part] = round(time.monotonic() - started, 1)


def _texts(request: Request, scorer: Scorer, tokenizer: Any) -> tuple[dict[str, Any], dict[str, list[Scored]]]:
    """What is kept of each text, and the scores of its windows that are compared with bf16."""
    from tqdm import tqdm

    job = request.job.eval
    lengths = [int(part * job.context) for part in job.lengths]
    results: dict[str, Any] = {}
    compared: dict[str, list[Scored]] = {}
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
    return results, compared if job.divergence.windows else {}


if __name__ == "__main__":
    stage(evaluate)
