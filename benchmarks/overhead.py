"""What qforge itself costs: its quantize against the library alone, its bench against `vllm bench serve` by hand.

    python benchmarks/overhead.py OUT key=value ...       the overrides of a run, with model.path and a concurrency

Quantizes with the library's own few lines, with the same function of the library through run.py, and as run.py does by
itself (as a stream, where the method can), in turn, each in a fresh process that finds the model on disk. Then serves the
result once and measures it both ways in turn, with the same load and other prompts each time. Writes OUT/overhead.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.config.job import Job
from qforge.envs import interpreters, process, stage
from qforge.envs.request import Request
from qforge.json_files import (
    read_json,
    to_json,
)
from qforge.pipeline.checks import check
from qforge.pipeline.run import Run
from qforge.pipeline.serve import server
from qforge.runtimes.server import Server
from qforge.runtimes.vllm import MODEL
from qforge.store import provenance

REPEATS = 3
REQUESTS = 32  # at least, in one reading of bench: four of one stream spread by 6 %
WAYS = {  # what run.py is asked for besides
    "run.py, in memory": ["method.function=qforge.methods.llmcompressor:quantize", "method.streams=false"],
    "run.py": [],
}
BARE = """
import sys, torch, yaml
from llmcompressor import oneshot
from transformers import AutoModelForCausalLM, AutoTokenizer
source, out, recipe = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
oneshot(model=model, recipe=recipe)
model.save_pretrained(out, save_compressed=True)
AutoTokenizer.from_pretrained(source).save_pretrained(out)
"""

# what the command `vllm bench serve` does; the command itself does not start in vLLM's CPU build
BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def main() -> None:
    """Both comparisons, as JSON."""
    out, overrides = Path(sys.argv[1]).resolve(), sys.argv[2:]
    out.mkdir(parents=True, exist_ok=True)
    ConfigStore.instance().store(name="schema", node=Job)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        made: Any = OmegaConf.to_object(compose("config", overrides))
    job: Job = made
    check(job)  # run.py would refuse it too, but after minutes
    found: dict[str, Any] = {"model": job.model.name, "method": job.method.name, "group_size": job.group_size}
    found |= {"hw": job.hw.name, "overrides": overrides, **provenance.now()}
    found["quantize"] = quantizing(job, out, overrides)
    (out / "overhead.json").write_text(to_json(found))
    artifact = out / "run" / "artifact"
    with server(Run(job, out), False, artifact, interpreters.of_runtime(job)) as running:
        found["bench"] = benching(job, running, artifact, out)
    (out / "overhead.json").write_text(to_json(found))
    print(to_json(found))


def quantizing(job: Job, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Seconds by way, one for each repeat; and of run.py's last runs the seconds within the stage."""
    seconds: dict[str, list[float]] = {"library": [], **{way: [] for way in WAYS}}
    stage: dict[str, dict[str, float]] = {}
    for _ in range(REPEATS):
        seconds["library"].append(by_library(job, out))
        for way, asked in WAYS.items():
            for folder in ("store", "run"):
                shutil.rmtree(out / folder, ignore_errors=True)
            command = [sys.executable, str(ROOT / "run.py"), "stages=[quantize]", f"hydra.run.dir={out / 'run'}"]
            started = time.monotonic()
            subprocess.run(
                [*command, *overrides, *asked, f"store={out / 'store'}"], check=True
            )  # the last store= holds
            seconds[way].append(time.monotonic() - started)
            stage[way] = read_json(out / "run" / "quantize.json")["seconds"]
    return {"seconds": seconds, "in the stage": stage}


def by_library(job: Job, out: Path) -> float:
    """Seconds of the library's own few lines, start of the interpreter included."""
    assert job.model.path
    shutil.rmtree(out / "bare", ignore_errors=True)
    modifiers = {name: {**args, "ignore": ["lm_head"]} for name, args in job.method.args.items()}
    recipe = json.dumps({"bare_stage": {"bare_modifiers": modifiers}})
    quant = interpreters.named(str(job.method.env), job)
    started, bare = time.monotonic(), ["-c", BARE, job.model.path, str(out / "bare"), recipe]
    with (out / "bare.log").open("wb") as log, process.process(quant, bare, {}, log.fileno()) as child:
        assert child.wait() == 0, out / "bare.log"
    return time.monotonic() - started


def benching(job: Job, running: Server, artifact: Path, out: Path) -> dict[str, Any]:
    """Tokens/s by concurrency, by qforge's stage and by hand, in turn."""
    rates: dict[str, dict[str, list[float]]] = {str(c): {"qforge": [], "by hand": []} for c in job.bench.concurrency}
    where = interpreters.of_runtime(job)
    for repeat, concurrency in product(range(REPEATS), job.bench.concurrency):
        result = out / f"bench-{concurrency}-{repeat}"
        result.mkdir(exist_ok=True)
        bench = replace(job.bench, concurrency=[concurrency], requests=max(job.bench.requests, REQUESTS // concurrency))
        of_one, both = replace(job, bench=bench), rates[str(concurrency)]
        inputs = {"artifact": str(artifact), "server_group": str(running.group)}
        request = Request(of_one, str(result), inputs=inputs, server=running.base_url)
        stage.run_stage("bench", where, request, result / "bench.log", lambda text: None, running.api_key)
        runs = read_json(result / "result.json")["runs"][str(concurrency)]
        both["qforge"].append(median(run["output_throughput"] for run in runs))
        both["by hand"].append(by_hand(of_one, running, artifact, result, concurrency, 7_000_000 + repeat))
    return rates


def by_hand(job: Job, running: Server, artifact: Path, out: Path, concurrency: int, seed: int) -> float:
    """Tokens/s as `vllm bench serve` says, typed as its documentation shows it: the median of bench.repeats."""
    rates = []
    for repeat in range(job.bench.repeats):
        flags = {
            "backend": "openai", "base-url": running.base_url, "model": artifact, "served-model-name": MODEL,
            "dataset-name": "random", "random-input-len": job.bench.input_len, "random-output-len": job.bench.output_len,
            "num-prompts": job.bench.requests * concurrency, "max-concurrency": concurrency, "temperature": 0,
            "seed": seed + 1000 * (repeat + 10 * concurrency), "result-dir": out, "result-filename": "hand.json",
        }  # fmt: skip
        typed = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        command = ["-c", BENCH, *typed, "--ignore-eos", "--save-result"]
        key = {"OPENAI_API_KEY": running.api_key}
        where = interpreters.of_runtime(job)
        with (out / "hand.log").open("ab") as log, process.process(where, command, key, log.fileno()) as child:
            assert child.wait() == 0, out / "hand.log"
        rates.append(float(json.loads((out / "hand.json").read_text())["output_throughput"]))
    return median(rates)


if __name__ == "__main__":
    main()
