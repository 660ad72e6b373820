"""The streams of two checkouts on the same models, in turn, so that a change of the machine's load falls on both.

    .venv/bin/python benchmarks/streaming_pairs.py FOLDER BEFORE [--gb 2] [--methods rtn nvfp4_llmc] [--repeats 5]

BEFORE is a checkout of an earlier commit (git worktree add). Each repeat is one pair: both quantize the model in a fresh
process, each measured by its own benchmarks/streaming.py, and the next pair begins with the other. Prints the medians and every
reading; writes a JSON for each size and method to outputs/streaming-pairs/, or to --out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from streaming import SHAPE, random_model

from qforge.json_files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
FIELDS = ("stream_s", "cpu_s", "peak_rss_gib", "bytes_in_turn_s")
MEASURE = """
import argparse, json, sys
from pathlib import Path
root, method, source, python, out, row = sys.argv[1:]
sys.path[:0] = [root, root + "/benchmarks"]
import streaming
options = argparse.Namespace(python=python, out=Path(out), inspect=False)
Path(row).write_text(json.dumps(streaming.measure(method, Path(source), options)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("before", type=Path)
    parser.add_argument("--gb", type=float, nargs="+", default=[2])
    parser.add_argument("--methods", nargs="+", default=["rtn", "nvfp4_llmc"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", default=str(ROOT / ".venvs/quant/bin/python"), help="of the stage")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "streaming-pairs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    roots = {"before": options.before.resolve(), "now": ROOT}
    print("model, GB", "method", *(f"{field} {which}" for field in FIELDS for which in roots), "ratios", sep=" | ")
    for size in options.gb:
        source = random_model(options.folder / f"model-{size:g}", SHAPE, size)
        for method in options.methods:
            pairs = []
            for repeat in range(options.repeats):
                order = list(roots) if repeat % 2 == 0 else list(reversed(roots))
                pairs.append({which: measured(roots[which], method, source, options) for which in order})
            summary = summed(pairs, {which: commit(root) for which, root in roots.items()})
            write_json(options.out / f"{method}-{size:g}gb.json", summary)
            medians = [f"{summary['medians'][which][field]:.2f}" for field in FIELDS for which in roots]
            ratios = ", ".join(f"{ratio:.2f}" for ratio in summary["ratios"])
            print(f"{pairs[0]['now']['model_gb']:.2f}", method, *medians, ratios, sep=" | ", flush=True)
        shutil.rmtree(source)


def measured(root: Path, method: str, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run of the stage of the checkout in `root`, as its own benchmark measures it."""
    row = options.folder / "row.json"
    command = [sys.executable, "-c", MEASURE, root, method, source, options.python, options.folder, row]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(list(map(str, command)), check=True, cwd=root, env=environ)
    return dict(read_json(row))


def summed(pairs: list[dict[str, dict[str, Any]]], commits: dict[str, str]) -> dict[str, Any]:
    """Medians by checkout, and the ratio of the streams' seconds, now to before, of every pair."""
    medians = {which: {field: median(pair[which][field] for pair in pairs) for field in FIELDS} for which in commits}
    ratios = [pair["now"]["stream_s"] / pair["before"]["stream_s"] for pair in pairs]
    last = pairs[-1]["now"]
    facts = {key: last[key] for key in ("method", "model_gb", "matrices", "device", "machine", "versions")}
    return {
        **facts, "commits": commits, "date": time.strftime("%Y-%m-%d"), "medians": medians, "ratios": ratios,
        "ratio": median(ratios),
        "readings": [{which: {field: row[field] for field in FIELDS} for which, row in pair.items()} for pair in pairs],
    }  # fmt: skip


def commit(root: Path) -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
