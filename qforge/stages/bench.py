"""Speed: vLLM's own `bench serve` against the running server, at each concurrency, several times over.

vLLM's rather than guidellm: it is what the field's published numbers are made with, it measures at the client, and it is
part of every runtime environment already, somebody's own included. Each concurrency is measured by itself, because what
4-bit weights gain for one stream they may lose for many. Memory and power are sampled during each measurement.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qforge.config.places import given_path
from qforge.envs.lifetime import importing
from qforge.envs.request import API_KEY, Request, stage
from qforge.envs.turns import turn
from qforge.evaluation import trace
from qforge.machine.usage import resident_gib, sampled
from qforge.runtimes.vllm import MODEL

# Of the result of vllm bench serve (vllm/benchmarks/serve.py): tokens/s out, and in and out; requests/s; ms to the first
# token, per token after it, and to the last one.
TIMES = ("ttft", "tpot", "e2el")
KEPT = ("output_throughput", "total_token_throughput", "request_throughput",
        *(f"{part}_{time}_ms" for time in TIMES for part in ("mean", "p50", "p95", "p99")))  # fmt: skip


def bench(request: Request) -> dict[str, Any]:
    """Returns, per concurrency, a list with one entry per repeat. Random prompts, greedy, no EOS; all of one length, or of the
    lengths of a trace's first requests.

    Prefill is the rate of tokens when every answer is one token long, at the last concurrency.
    Raises RuntimeError where a request failed: then the numbers mean nothing.
    """
    from tqdm import tqdm

    job = request.job.bench
    os.environ["OPENAI_API_KEY"] = os.environ[API_KEY]  # where vllm bench looks for it
    runs: dict[str, list[dict[str, float]]] = {str(c): [] for c in job.concurrency}
    prefill = []
    # repeats outermost, so that a slow minute of the machine does not fall on one concurrency alone
    todo = [(repeat, c) for repeat in range(job.repeats) for c in job.concurrency]
    with turn(request):
        # warm-up, dropped: Triton compiles a kernel when a batch of a new size comes
        for concurrency in job.concurrency:
            _measure(request, _drawn(request, concurrency, seed=1_000_000 + concurrency))
        # no prompt twice: vLLM caches prefixes, and one seed gives the same first prompts for any number of them
        loads = {(repeat, c): _drawn(request, c, seed=1000 * repeat + c) for repeat, c in todo}
        prefills = [_drawn(request, job.concurrency[-1], 1000 * repeat, output_len=1) for repeat in range(job.repeats)]
    with turn(request, timed=True):
        for repeat, concurrency in tqdm(todo, desc="bench"):
            runs[str(concurrency)].append(_measure(request, loads[repeat, concurrency]))
            if concurrency == job.concurrency[-1]:
                prefill.append(_measure(request, prefills[repeat])["total_token_throughput"])
    return {
        "input_len": job.input_len,
        "output_len": job.output_len,
        **_traced(request),
        "tool": "vllm bench serve",
        "resident_gib": resident_gib(int(request.inputs["server_group"])),
        "prefill_tokens_per_second": prefill,
        "runs": runs,
    }


def _traced(request: Request) -> dict[str, Any]:
    """Of a trace: which it was, and what its requests are like at each concurrency."""
    job = request.job.bench
    if not job.trace:
        return {}
    file, streams = given_path(job.trace), map(str, job.concurrency)
    asked = dict(zip(streams, (trace.summary(trace.asked(job, c)) for c in job.concurrency), strict=True))
    return {"trace": {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "asked": asked}}


@cache
def _client() -> tuple[Any, argparse.ArgumentParser]:
    """The module behind `vllm bench serve`, and the parser of its options."""
    with importing():
        from vllm.benchmarks import serve
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    serve.get_tokenizer = cache(serve.get_tokenizer)  # it would load it for each measurement: 0.4 s for 49,152 tokens
    parser: argparse.ArgumentParser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    return serve, parser


def arguments(
    request: Request, concurrency: int, seed: int, output_len: int | None = None, calls: Path | None = None
) -> list[str]:
    """The command line of `vllm bench serve`; `output_len` instead of the job's; with `calls` the requests in that file."""
    job = request.job.bench
    options: dict[str, Any] = {
        "backend": "openai", "base-url": request.server, "model": request.inputs["artifact"],
        "served-model-name": MODEL, "num-prompts": job.requests * concurrency,
        "max-concurrency": concurrency, "temperature": 0, "seed": seed, "ready-check-timeout-sec": 0,
        "percentile-metrics": ",".join(TIMES), "metric-percentiles": "50,95,99",
    }  # fmt: skip
    if calls:
        options |= {"dataset-name": "timed_trace", "dataset-path": calls, "timed-trace-chunk-hash-size": trace.BLOCK}
    else:
        options |= {
            "dataset-name": "random", "random-input-len": job.input_len,
            "random-output-len": output_len or job.output_len, "random-range-ratio": 0,
        }  # fmt: skip
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    flags += ["--no-self-timed"] if calls else []  # as many at once as are asked for, not when the trace had them
    trusted = ["--trust-remote-code"] if request.job.model.trust_remote_code else []  # of the tokenizer, which it loads
    detailed = "--save-detailed"  # with the start of each request
    return [*flags, "--ignore-eos", "--disable-tqdm", detailed, *trusted]


@dataclass(frozen=True)
class Load:
    """What one measurement sends, and how: `requests` are vLLM's, drawn beforehand."""

    options: argparse.Namespace
    requests: list[Any]


def _drawn(request: Request, concurrency: int, seed: int, output_len: int | None = None) -> Load:
    """As vLLM's benchmark itself draws it, which takes 0.8 s for 256 prompts of 512 tokens: while nothing is timed."""
    client, parser = _client()
    from vllm.benchmarks.datasets import get_samples

    with tempfile.TemporaryDirectory() as folder:
        calls = None
        if request.job.bench.trace:
            asked = trace.asked(request.job.bench, concurrency)
            trace.write(calls := Path(folder, "calls.jsonl"), asked, seed, output_len)
        options = parser.parse_args(arguments(request, concurrency, seed, output_len, calls))
        tokenizer = client.get_tokenizer(
            options.model, tokenizer_mode=options.tokenizer_mode, trust_remote_code=options.trust_remote_code
        )
        return Load(options, get_samples(options, tokenizer))


def _measure(request: Request, load: Load) -> dict[str, float]:
    client, _ = _client()
    client.get_samples = lambda *_: load.requests  # where main() looks for what draws them
    with sampled(int(request.inputs["server_group"])) as usage:
        result = client.main(load.options)
    if result["failed"]:
        raise RuntimeError(
            f"{result['failed']} of {result['num_prompts']} requests failed at concurrency {load.options.max_concurrency}"
        )
    began = min(result["start_times"])  # before it main() loads the tokenizer, and the server idles
    used = usage.summary(int(result["total_output_tokens"]), (began, began + result["duration"]))
    return {**{name: float(result[name]) for name in KEPT}, **used}


if __name__ == "__main__":
    stage(bench)
