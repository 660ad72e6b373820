"""Results in the form of the stages, of models that do not exist: for what is judged from them."""

from __future__ import annotations

import numpy as np

from qforge.evaluation.perplexity import summary

MADE = {"made": {"machine": {"cpu": "one", "gpus": []}}}


def results(loss: float = 3.0, noise: float = 0.1, right: float = 0.5, rate: float = 100.0, seed: int = 0) -> dict:
    """Results in the form of the stages, with the given mean loss, accuracy and tokens/s."""
    random = np.random.default_rng(seed)
    losses = [list(random.normal(loss, noise, 100)) for _ in range(20)]
    correct = [float(i < 200 * right) for i in range(200)]
    runs = {
        streams: [{"output_throughput": rate * f, "p95_e2el_ms": 1e5 / rate / f, "p50_tpot_ms": 1e3 * int(streams) / rate / f,
                   "gpu_joules_per_token": 30 / rate / f} for f in (0.98, 1.0, 1.02)]
        for streams in ("1", "4")
    }  # fmt: skip
    text = {**summary(losses), "windows_sha256": "w"}
    task = {"metrics": {"acc": right}, "prompt_hashes": "p", "per_sample": {"acc": correct},
            "asked": {"broken": [1 - score for score in correct]}}  # fmt: skip
    long = {"perplexity": {"book": dict(text)},
            "needles": {"prompts_sha256": "n", "per_cell": 8, "found": {"noise": [[right] * 3] * 3},
                        "scores": {"noise": [[[right] * 8] * 3] * 3}}}  # fmt: skip
    stability = {"prompts": 16, "repeats": 2, "degenerate": [], "degenerate_share": 0.0, "differing_share": 0.0,
                 "load": {"seconds": 30, "requests": 44, "failed": 0, "concurrency": 4, "tokens_per_request": 64}}  # fmt: skip
    divergence = {"window_tokens": [100] * 20, "window_kl": [100 * (loss - 2.95)] * 20, "window_agreed": [90] * 20}
    return {
        "serve": {**MADE, "version": "1", "weights_gib": None},
        "evaluate": {**MADE, "through": "server", "context": 101, "versions": {"torch": "2"}, "texts": {"text": text},
                     "tasks": {"task": task}, "long_context": long, "stability": stability},
        "divergence": {"texts": {"text": divergence}},
        "bench": {**MADE, "input_len": 1, "output_len": 1, "tool": "t", "runs": runs},
        "weights": {"bytes": 3e9, "as_bf16": False},
    }  # fmt: skip
