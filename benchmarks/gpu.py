"""The rows of results/*-h200.json: every method on NVIDIA GPUs, one row at a time on each, each through run.py.

    python benchmarks/gpu.py OUT [--rows PATTERN] [--devices 0,1] [--model START=PATH ...] -- key=value ...
    python benchmarks/gpu.py OUT --tiers [--rows PATTERN] -- key=value ...      judges those rows by each tier

Writes OUT/<row>.json (the row of the run), OUT/<row>.log and OUT/<row>.kernels.txt, the lines of the server's log that
name kernels; of a tier OUT/tiers/<row>-<tier>.json, its verdict, for which nothing is measured again. A row that fails is
told and left behind. A row that needs a PATH waits for it, and others go first: so models may still be on their way.
The overrides hold for every row; on a machine without a network, such as:
    -- hw=h200 runtime=existing runtime.python=python3 +envs.quant.python=python3 bench=gpu eval.windows=30
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.machine import nvidia

SHAPE, MIXTURE = "model=qwen3_8b_random", "model=qwen3_30b_a3b_random"
REAL, DEMO = "model=qwen2_5_coder_1_5b", "model=smollm2_135m"
TURNED = ["model=qwen2_5_coder_1_5b_turned"]
ROWS = {
    "qwen2_5_coder_1_5b-bf16": [REAL, "method=bf16"],
    "qwen2_5_coder_1_5b-gptq": [REAL, "method=gptq", "group_size=128"],
    "qwen2_5_coder_1_5b-awq": [REAL, "method=awq", "group_size=128"],
    "qwen2_5_coder_1_5b-rtn": [REAL, "method=rtn", "group_size=128"],
    "qwen2_5_coder_1_5b-nvfp4": [REAL, "method=nvfp4"],
    "qwen2_5_coder_1_5b-nvfp4_llmc": [REAL, "method=nvfp4_llmc"],
    "qwen2_5_coder_1_5b-nvfp4_gptq": [REAL, "method=nvfp4_gptq"],
    "qwen2_5_coder_1_5b-nvfp4_mse": [REAL, "method=nvfp4_mse"],
    "qwen2_5_coder_1_5b-nvfp4_hessian": [REAL, "method=nvfp4_hessian"],
    "qwen2_5_coder_1_5b-mxfp4": [REAL, "method=mxfp4"],
    "qwen2_5_coder_1_5b-fp8": [REAL, "method=fp8"],
    "qwen2_5_coder_1_5b-bf16-kv_fp8": [REAL, "method=bf16", "+runtime.args.kv_cache_dtype=fp8"],
    "qwen2_5_coder_1_5b_turned-bf16": [*TURNED, "method=bf16"],
    "qwen2_5_coder_1_5b_turned-gptq": [*TURNED, "method=gptq", "group_size=128"],
    "qwen2_5_coder_1_5b_turned-gptq-mixed": [*TURNED, "method=gptq", "group_size=128", "calib=mixed"],
    "qwen2_5_coder_1_5b_turned-awq": [*TURNED, "method=awq", "group_size=128"],
    "qwen2_5_coder_1_5b_turned-rtn": [*TURNED, "method=rtn", "group_size=128"],
    "qwen2_5_coder_1_5b_turned-nvfp4": [*TURNED, "method=nvfp4"],
    "qwen2_5_coder_1_5b_turned-nvfp4_llmc": [*TURNED, "method=nvfp4_llmc"],
    "qwen2_5_coder_1_5b_turned-nvfp4_hessian": [*TURNED, "method=nvfp4_hessian"],
    "qwen2_5_coder_1_5b_turned-mxfp4": [*TURNED, "method=mxfp4"],
    "qwen2_5_coder_1_5b_turned-fp8": [*TURNED, "method=fp8"],
    "qwen3_8b_random-bf16": [SHAPE, "method=bf16"],
    "qwen3_8b_random-rtn": [SHAPE, "method=rtn", "group_size=128"],
    "qwen3_8b_random-nvfp4_llmc": [SHAPE, "method=nvfp4_llmc"],
    "qwen3_8b_random-fp8": [SHAPE, "method=fp8"],
    "qwen3_8b_random-mxfp4": [SHAPE, "method=mxfp4"],
    "qwen3_8b_random-nvfp4": [SHAPE, "method=nvfp4"],
    "qwen3_8b_random-nvfp4_llmc-humming": [SHAPE, "method=nvfp4_llmc", "+runtime.args.linear_backend=humming"],
    "qwen3_30b_a3b_random-bf16": [MIXTURE, "method=bf16"],
    "qwen3_30b_a3b_random-rtn": [MIXTURE, "method=rtn", "group_size=128"],
    "qwen3_30b_a3b_random-nvfp4_llmc": [MIXTURE, "method=nvfp4_llmc"],
    "smollm2_135m-bf16": [DEMO, "method=bf16"],
    "smollm2_135m-rtn": [DEMO, "method=rtn"],
    "smollm2_135m-nvfp4": [DEMO, "method=nvfp4"],
}  # fmt: skip
JUDGED = "stages=[quantize,serve,evaluate,bench,judge]"
TIERS = {
    f"{row}-{tier}": [*ROWS[row], f"gate={tier}", "gate.required=false", JUDGED]
    for row in ("qwen3_30b_a3b_random-rtn", "qwen3_30b_a3b_random-nvfp4_llmc")
    for tier in ("minimum", "target", "optimal")
}
TWO = ["+runtime.args.tensor_parallel_size=2", "stages=[quantize,inspect,serve,bench]"]  # beside no bf16 of their own
TOGETHER = {  # on two GPUs, after the others
    "qwen3_8b_random-rtn-tp2": [SHAPE, "method=rtn", "group_size=128", *TWO],
    "qwen3_8b_random-nvfp4_llmc-tp2": [SHAPE, "method=nvfp4_llmc", *TWO],
}


class Queue:
    """Rows, the first first, as soon as what they need is there."""

    def __init__(self, rows: list[str], needs: dict[str, Path], until: float) -> None:
        self.rows, self.needs, self.until, self.lock = rows, needs, until, threading.Lock()

    def take(self) -> str | None:
        """The next row; none when all are taken or the time is over."""
        while time.time() < self.until:
            with self.lock:
                for row in self.rows:
                    if all(path.exists() for start, path in self.needs.items() if row.startswith(start)):
                        self.rows.remove(row)
                        return row
                if not self.rows:
                    return None
            time.sleep(1)
        return None


def measure(row: str, overrides: list[str], devices: str, out: Path) -> None:
    """One run of run.py on these devices."""
    folder, started = out / "runs" / row, time.time()
    made, kept = (folder / "verdict.json", out / "tiers") if row in TIERS else (folder / "row.json", out)
    command = [sys.executable, str(ROOT / "run.py"), *overrides, f"hydra.run.dir={folder}"]
    with (out / f"{row}.log").open("w") as log:
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": devices}
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, env=environ).returncode
    if made.exists():
        kept.mkdir(exist_ok=True)
        shutil.copyfile(made, kept / f"{row}.json")
    lines = [line for log in sorted(folder.glob("*serve.log")) for line in log.read_text(errors="replace").splitlines()]
    named = [line for line in lines if re.search(r"Using|Selected|kernel|backend|FP4|took|GiB|quantization", line)]
    if lines:
        (out / f"{row}.kernels.txt").write_text("\n".join(named) + "\n")
    print(f"{time.time() - started:6.1f} s  exit {code}  {row} on {devices}", flush=True)


def all_devices() -> list[str]:
    """The numbers of this machine's GPUs; one nameless device where it has none."""
    return list(map(str, range(len(nvidia.devices())))) or [""]


def main() -> None:
    """A worker for each GPU; then what needs two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", default="", help="only rows whose name matches this pattern")
    parser.add_argument("--model", action="append", default=[], metavar="START=PATH", help="model of rows named so")
    parser.add_argument("--tiers", action="store_true", help="judge measured rows by each tier")
    parser.add_argument("--devices", default="", help="as CUDA_VISIBLE_DEVICES names them; all without it")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no row after so many")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given, overrides = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    given.out.mkdir(parents=True, exist_ok=True)
    needs = {start: Path(path) for start, path in (model.split("=", 1) for model in given.model)}
    rows = TIERS if given.tiers else ROWS
    queue = Queue([row for row in rows if re.search(given.rows, row)], needs, time.time() + given.seconds)
    devices = given.devices.split(",") if given.devices else all_devices()

    def run(row: str, asked: list[str], on: str) -> None:
        own = [f"model.path={path}" for start, path in needs.items() if row.startswith(start)]
        measure(row, [*asked, *own, *overrides], on, given.out)

    def work(device: str) -> None:
        while row := queue.take():
            run(row, rows[row], device)

    workers = [threading.Thread(target=work, args=[device]) for device in devices]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for row in [row for row in TOGETHER if len(devices) > 1 and not given.tiers and re.search(given.rows, row)]:
        if time.time() < queue.until:
            run(row, TOGETHER[row], ",".join(devices[:2]))


if __name__ == "__main__":
    main()
