"""`vllm bench serve` and guidellm at one server with the same load, in turn: do they say the same?

    python run.py 'stages=[serve]' serve.keep=true method=bf16       prints the server's address and key; or any other server
    uv venv GUIDELLM && uv pip install -p GUIDELLM guidellm          in an environment of its own, outside of this checkout
    OPENAI_API_KEY=KEY .venvs/vllm_cpu/bin/python benchmarks/load_generators.py http://127.0.0.1:PORT TOKENIZER OUT.json \
        --guidellm GUIDELLM/bin/guidellm --streams 1 4

Runs in vLLM's environment. TOKENIZER is a folder with the tokenizer of what is served: both tools make random prompts with it.
Both keep as many streams full as are asked for, send prompts of one length to /v1/completions, ask greedily and have every
answer be of one length. The first measurement of each tool at each number of streams is dropped, and no prompt is sent twice.
Prints a table and writes OUT.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.config.job import Bench, Job
from qforge.envs.request import Request
from qforge.runtimes.vllm import MODEL
from qforge.stages import bench

NUMBERS = {
    "tokens_per_second": "tokens/s out",
    "ttft_ms": "ms to the first token, p50",
    "per_token_ms": "ms per token after it, p50",
    "prompt_tokens": "tokens of a prompt, as the server counts them",
}
VLLM, GUIDELLM = "vllm bench serve", "guidellm"
Tool = Callable[[argparse.Namespace, int, int], dict[str, float]]


def main() -> None:
    """Measure, print the table, keep every number."""
    asked = arguments()
    tools: dict[str, Tool] = {VLLM: by_vllm, GUIDELLM: by_guidellm}
    runs: dict[str, dict[str, list[dict[str, float]]]] = {str(s): {name: [] for name in tools} for s in asked.streams}
    for repeat, streams, (name, tool) in product(range(asked.repeats + 1), asked.streams, tools.items()):
        found = tool(asked, streams, 1000 * repeat + streams)
        print(f"{repeat or 'warm-up'}: {streams} streams, {name}: {found}", file=sys.stderr, flush=True)
        if repeat:
            runs[str(streams)][name].append(found)
    load = {name: getattr(asked, name) for name in ("input_len", "output_len", "requests", "repeats")}
    versions = {"vllm": vllm_version(), GUIDELLM: guidellm_version(asked)}
    asked.out.write_text(json.dumps({"load": load, "versions": versions, "runs": runs}, indent=1) + "\n")
    print("\n".join(table(runs)))


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="its base URL, without /v1")
    parser.add_argument("tokenizer", help="a folder with the tokenizer of what is served")
    parser.add_argument("out", type=Path, help="a JSON file for every number")
    parser.add_argument("--guidellm", required=True, help="its command, with arguments where it needs some")
    parser.add_argument("--model", default=MODEL, help="what the server calls it")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--input-len", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--output-len", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--requests", type=int, default=8, help="per stream and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def by_vllm(asked: argparse.Namespace, streams: int, seed: int) -> dict[str, float]:
    """As qforge's own stage calls it, but for the model's name. Raises RuntimeError where a request failed."""
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    job = Job(bench=Bench(input_len=asked.input_len, output_len=asked.output_len, requests=asked.requests))
    request = Request(job, "", inputs={"artifact": asked.tokenizer}, server=asked.server)
    options = bench.arguments(request, streams, seed)
    with redirect_stdout(sys.stderr):
        result = serve.main(parser.parse_args([*options, "--served-model-name", asked.model]))  # the last one holds
    complete(result["completed"], streams * asked.requests, VLLM)
    return {
        "tokens_per_second": result["output_throughput"],
        "ttft_ms": float(result["p50_ttft_ms"]),
        "per_token_ms": float(result["p50_tpot_ms"]),
        "prompt_tokens": result["total_input_tokens"] / result["completed"],
    }


def by_guidellm(asked: argparse.Namespace, streams: int, seed: int) -> dict[str, float]:
    """Its defaults but for the load, the endpoint (it would chat) and greed. Raises RuntimeError where a request failed."""
    requests = streams * asked.requests
    with tempfile.TemporaryDirectory() as folder:
        config, report = Path(folder, "asked.json"), Path(folder, "report.json")
        spec = {
            "backend": {
                "kind": "openai_http", "target": asked.server, "model": asked.model, "request_format": "/v1/completions",
                "api_key": os.environ.get("OPENAI_API_KEY"), "extras": {"body": {"temperature": 0}},
            },
            "tokenizer": {"kind": "huggingface_auto", "model": asked.tokenizer},
            "data": [{"kind": "synthetic_text", "prompt_tokens": asked.input_len, "output_tokens": asked.output_len}],
            "data_loader": {"kind": "pytorch", "samples": requests},  # made before the start, as the other tool's are
            "seed": {"kind": "static", "value": seed},
            "profile": {"kind": "concurrent", "streams": [streams]},
            "constraints": [{"kind": "max_requests", "count": requests}],
            "outputs": [{"kind": "json", "path": str(report)}],
        }  # fmt: skip
        config.write_text(json.dumps({"spec": spec}))
        command = [*shlex.split(asked.guidellm), "run", "--config", str(config), "--disable-console"]
        subprocess.run(command, check=True)
        (result,) = json.loads(report.read_text())["benchmarks"]
    metrics: dict[str, Any] = result["metrics"]
    complete(metrics["request_totals"]["successful"], requests, GUIDELLM)
    return {
        "tokens_per_second": metrics["output_tokens_per_second"]["successful"]["mean"],
        "ttft_ms": metrics["time_to_first_token_ms"]["successful"]["percentiles"]["p50"],
        "per_token_ms": metrics["inter_token_latency_ms"]["successful"]["percentiles"]["p50"],
        "prompt_tokens": metrics["prompt_token_count"]["successful"]["mean"],
    }


def complete(answered: int, wanted: int, tool: str) -> None:
    """A measurement with failed requests means nothing."""
    if answered != wanted:
        raise RuntimeError(f"{tool}: {answered} of {wanted} requests were answered")


def vllm_version() -> str:
    """Of vLLM's package, which its CPU build calls vllm-cpu."""
    import vllm

    return str(vllm.__version__)


def guidellm_version(asked: argparse.Namespace) -> str:
    """As its command says."""
    said = subprocess.run([*shlex.split(asked.guidellm), "--version"], check=True, capture_output=True, text=True)
    return said.stdout.split()[-1]


def table(runs: dict[str, dict[str, list[dict[str, float]]]]) -> list[str]:
    """Medians with the least and the most of the repeats; the ratio is the median of the repeats' own."""
    lines = [f"| streams | | {VLLM} | {GUIDELLM} | {GUIDELLM} over {VLLM} |", "|---|---|---|---|---|"]
    for streams, of in runs.items():
        for name, title in NUMBERS.items():
            ours, theirs = ([run[name] for run in of[tool]] for tool in (VLLM, GUIDELLM))
            ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
            cells = [spread(ours, 1), spread(theirs, 1), spread(ratios, 3)]
            lines.append(f"| {streams} | {title} | {' | '.join(cells)} |")
    return lines


def spread(values: list[float], digits: int) -> str:
    """The median, and in brackets the range."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
