"""Speed without a server: transformers' own generate() in this process, beside which a server's speed can be held.

A batch begins and ends together, so all its requests wait the same, and nothing is scheduled: what people have who call the
library themselves.
"""

from __future__ import annotations

import os
import time
from typing import Any

from qforge.envs.request import Request, stage
from qforge.envs.turns import turn
from qforge.machine.usage import resident_gib, sampled
from qforge.models.auto_class import opened
from qforge.stages.bench import TIMES


def generate(request: Request) -> dict[str, Any]:
    """Returns what `bench` returns, measured in this process. Random prompts, fixed lengths, greedy, no EOS."""
    from tqdm import tqdm

    job = request.job.bench
    runs: dict[str, list[dict[str, float]]] = {str(c): [] for c in job.concurrency}
    prefill = []
    todo = [(repeat, c) for repeat in range(job.repeats) for c in job.concurrency]
    with turn(request):
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = opened(request.inputs["artifact"], request.job.model.trust_remote_code, device_map=device)
        for concurrency in job.concurrency:  # warm-up, dropped
            _run(model, concurrency, job.input_len, 2, seed=0)
    with turn(request, timed=True):
        for repeat, concurrency in tqdm(todo, desc="generate"):
            with sampled(os.getpgrp()) as usage:
                first = _run(model, concurrency, job.input_len, 1, seed=1 + repeat)
                total = _run(model, concurrency, job.input_len, job.output_len, seed=1 + repeat)
            tokens = concurrency * (1 + job.output_len)
            runs[str(concurrency)].append(
                _rates(concurrency, job.input_len, job.output_len, first, total) | usage.summary(tokens)
            )
            if concurrency == job.concurrency[-1]:
                prefill.append(concurrency * (job.input_len + 1) / first)
    return {
        "input_len": job.input_len,
        "output_len": job.output_len,
        "tool": "transformers generate()",
        "resident_gib": resident_gib(os.getpgrp()),
        "prefill_tokens_per_second": prefill,
        "runs": runs,
    }


def _rates(batch: int, prompt: int, answer: int, first: float, total: float) -> dict[str, float]:
    """Tokens and requests per second, and the milliseconds that every request of the batch waited. `first`, `total`: seconds
    until its first and last token."""
    times = {"ttft": first, "tpot": (total - first) / (answer - 1), "e2el": total}
    assert times.keys() == set(TIMES)
    return {
        "output_throughput": batch * answer / total,
        "total_token_throughput": batch * (prompt + answer) / total,
        "request_throughput": batch / total,
        **{f"{part}_{name}_ms": 1000 * s for name, s in times.items() for part in ("mean", "p50", "p95", "p99")},
    }


def _run(model: Any, batch: int, prompt: int, answer: int, seed: int) -> float:
    """Seconds for a batch of random prompts, answered with exactly `answer` tokens each."""
    import torch

    vocabulary = model.get_input_embeddings().num_embeddings
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, min(vocabulary, 1000), (batch, prompt), generator=draw).to(model.device)
    started = time.monotonic()
    with torch.inference_mode():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=answer, min_new_tokens=answer, do_sample=False
        )
    assert made[:, prompt:].cpu().shape == (batch, answer)  # copied, so that a device has done its work
    return time.monotonic() - started


if __name__ == "__main__":
    stage(generate)
