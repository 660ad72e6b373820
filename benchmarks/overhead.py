"""What qforge itself costs: its bench against `vllm bench serve` by hand, its quantize against the library alone.

    python benchmarks/overhead.py OUT key=value ...       the overrides of a run, with model.path and a concurrency

Alternates both ways on one server, with the same load and other prompts each time; then quantizes both ways, each in
a fresh process, and prints where run.py's time went. Writes OUT/overhead.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge import envs, interpreters  # noqa: E402
from qforge.checkpoint import read_json  # noqa: E402
from qforge.config import Job  # noqa: E402
from qforge.measure import server  # noqa: E402
from qforge.request import Request, to_json  # noqa: E402
from qforge.runtimes.vllm import MODEL, Server  # noqa: E402
from qforge.steps import Run  # noqa: E402

REPEATS = 3
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
    found = {"quantize": quantizing(job, out, overrides)}
    (out / "overhead.json").write_text(to_json(found))
    artifact = out / "run" / "artifact"
    with server(Run(job, out), False, artifact, interpreters.of_runtime(job)) as running:
        found["bench"] = benching(job, running, artifact, out)
    (out / "overhead.json").write_text(to_json(found))
    print(to_json(found))


def quantizing(job: Job, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Seconds of the library's own few lines and of `run.py stages=[quantize]`, the model on disk in both."""
    assert job.model.path
    modifiers = {name: {**args, "ignore": ["lm_head"]} for name, args in job.method.args.items()}
    recipe = json.dumps({"bare_stage": {"bare_modifiers": modifiers}})
    quant = interpreters.named(str(job.method.env), job)
    seconds: dict[str, list[float]] = {"library": [], "run.py": []}
    for _ in range(REPEATS):
        for folder in ("bare", "store", "run"):
            shutil.rmtree(out / folder, ignore_errors=True)
        started, bare = time.monotonic(), ["-c", BARE, job.model.path, str(out / "bare"), recipe]
        with (out / "bare.log").open("wb") as log, envs.process(quant, bare, {}, log.fileno()) as child:
            assert child.wait() == 0, out / "bare.log"
        seconds["library"].append(time.monotonic() - started)
        command = [sys.executable, str(ROOT / "run.py"), "stages=[quantize]", f"hydra.run.dir={out / 'run'}"]
        started = time.monotonic()
        subprocess.run([*command, *overrides, f"store={out / 'store'}"], check=True)  # the last store= holds
        seconds["run.py"].append(time.monotonic() - started)
    stage = read_json(out / "run" / "quantize.json")["seconds"]
    return {"seconds": seconds, "of the last run.py, in the stage": stage}


def benching(job: Job, running: Server, artifact: Path, out: Path) -> dict[str, Any]:
    """Tokens/s by concurrency, by qforge's stage and by hand, in turn."""
    rates: dict[str, dict[str, list[float]]] = {}
    where = interpreters.of_runtime(job)
    for repeat in range(REPEATS):
        result = out / f"bench-{repeat}"
        result.mkdir(exist_ok=True)
        request = Request(job, str(result), inputs={"artifact": str(artifact)}, server=running.base_url)
        envs.run_stage("bench", where, request, result / "bench.log", lambda text: None, running.api_key)
        runs = read_json(result / "result.json")["runs"]
        for concurrency in job.bench.concurrency:
            both = rates.setdefault(str(concurrency), {"qforge": [], "by hand": []})
            both["qforge"].append(median(run["output_throughput"] for run in runs[str(concurrency)]))
            both["by hand"].append(by_hand(job, running, artifact, result, concurrency, 7_000_000 + repeat))
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
        with (out / "hand.log").open("ab") as log, envs.process(where, command, key, log.fileno()) as child:
            assert child.wait() == 0, out / "hand.log"
        rates.append(float(json.loads((out / "hand.json").read_text())["output_throughput"]))
    return median(rates)


if __name__ == "__main__":
    main()
