"""Speed: vLLM's own `bench serve` against the running server, at each concurrency, several times over.

vLLM's, because it is the field's reference, measures at the client and lies in every runtime environment already.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from qforge.request import API_KEY, Request, stage
from qforge.runtimes.vllm import MODEL

# of the result of vllm bench serve (vllm/benchmarks/serve.py); times in ms, throughput in tokens/s
KEPT = (
    "output_throughput",
    "total_token_throughput",
    "p50_ttft_ms",
    "p95_ttft_ms",
    "p50_tpot_ms",
    "p95_tpot_ms",
    "p50_e2el_ms",
    "p95_e2el_ms",
)


def bench(request: Request) -> dict[str, Any]:
    """Returns, per concurrency, a list with one entry per repeat. Random prompts, fixed lengths, greedy, no EOS.

    Prefill is the rate of tokens when every answer is one token long, at the last concurrency.
    Raises RuntimeError where a request failed: then the numbers mean nothing.
    """
    from tqdm import tqdm

    job = request.job.bench
    os.environ["OPENAI_API_KEY"] = os.environ[API_KEY]  # where vllm bench looks for it
    runs: dict[str, list[dict[str, float]]] = {str(c): [] for c in job.concurrency}
    prefill = []
    _measure(request, job.concurrency[-1], seed=1_000_000)  # warm-up: its numbers are dropped
    # repeats outermost, so that a slow minute of the machine does not fall on one concurrency alone
    todo = [(repeat, c) for repeat in range(job.repeats) for c in job.concurrency]
    for repeat, concurrency in tqdm(todo, desc="bench"):
        # no prompt twice: vLLM caches prefixes, and one seed gives the same first prompts for any number of them
        runs[str(concurrency)].append(_measure(request, concurrency, seed=1000 * repeat + concurrency))
        if concurrency == job.concurrency[-1]:
            prefill.append(_measure(request, concurrency, seed=1000 * repeat, output_len=1)["total_token_throughput"])
    lengths = {"input_len": job.input_len, "output_len": job.output_len}
    return {**lengths, "tool": "vllm bench serve", "runs": runs, "prefill_tokens_per_second": prefill}


def _measure(request: Request, concurrency: int, seed: int, output_len: int | None = None) -> dict[str, float]:
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    job = request.job.bench
    options = {
        "backend": "openai", "base-url": request.server, "model": request.inputs["artifact"],
        "served-model-name": MODEL, "dataset-name": "random", "random-input-len": job.input_len,
        "random-output-len": output_len or job.output_len, "random-range-ratio": 0, "num-prompts": job.requests * concurrency,
        "max-concurrency": concurrency, "temperature": 0, "seed": seed, "ready-check-timeout-sec": 0,
        "percentile-metrics": "ttft,tpot,e2el", "metric-percentiles": "50,95,99",
    }  # fmt: skip
    parser: argparse.ArgumentParser = FlexibleArgumentParser()
    add_cli_args(parser)
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    result = main(parser.parse_args([*flags, "--ignore-eos", "--disable-tqdm"]))
    if result["failed"]:
        raise RuntimeError(
            f"{result['failed']} of {result['num_prompts']} requests failed at concurrency {concurrency}"
        )
    return {name: float(result[name]) for name in KEPT}


if __name__ == "__main__":
    stage(bench)
