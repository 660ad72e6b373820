"""Every method on one model, each judged against bf16, as one Markdown table.

    python benchmarks/methods.py [METHOD[/GROUP] ...] [--at-once N] [-- model=NAME key=value ...]       or: make bench

Runs `run.py` once per method (what is known is reused); the table goes to outputs/methods/<model>/table.md, the same as a page
to report.html beside it, each row, as JSON, to <method>.json. What is refused or fails is named below the table. Without a
method: all of them, at 4.5 bits per weight where they can. Of several at once run.py prints to <method>.log; they are for
quality (`stages=[quantize,inspect,serve,evaluate,judge]`): what is timed beside others says nothing of speed.

On a host with a GPU and without a network, with the model's folder brought along:

    python benchmarks/methods.py --at-once 4 -- model=smollm2_135m_turned model.path=FOLDER hw=h200 runtime=existing \
        runtime.python=python3 +envs.quant.python=python3 +runtime.args.gpu_memory_utilization=0.2 \
        'stages=[quantize,inspect,serve,evaluate,judge]'
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.report.reasons import why
from qforge.report.table import verdict_of

OUT = ROOT / "outputs" / "methods"
MODEL = "smollm2_135m_turned"  # off the grid of its 4-bit file
INT4 = [
    "rtn", "rtn_mse", "rtn_imatrix", "gptq", "gptqmodel", "auto_gptq", "awq", "gptqmodel_awq", "autoawq", "autoround",
]  # fmt: skip
NVFP4 = [
    "nvfp4", "nvfp4_llmc", "nvfp4_llmc_mse", "nvfp4_llmc_imatrix", "nvfp4_four_over_six", "nvfp4_mse", "nvfp4_gptq",
    "nvfp4_hessian", "nvfp4_w4a4",
]  # fmt: skip
METHODS = [
    "bf16", *[f"{method}/32" for method in INT4], *NVFP4, "bnb_nf4", "mxfp4", "rtn/64", "gptq/64", "fp8", "w8a8",
]  # fmt: skip
NEEDS = {"bnb_nf4": "runtime=transformers_bnb", "mxfp4": "unservable=measure"}


def main() -> None:
    """Run, collect, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*", default=METHODS, metavar="METHOD[/GROUP]")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="rows measured beside one another")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    given, overrides = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    model = next((o.partition("=")[2] for o in overrides if o.startswith("model=")), MODEL)
    methods = given.methods
    (OUT / model).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.at_once) as pool:
        own, quiet = [f"model={model}", *overrides], given.at_once > 1
        found = pool.map(lambda method: run(OUT / model, method, own, quiet), methods)
        rows = dict(zip(methods, found, strict=True))
    done = [row for row in rows.values() if not row.get("failed")]
    lines = table(done) if done else ""
    lines += "".join(f"- {method}: {why(row)}\n" for method, row in rows.items() if row.get("failed"))
    (OUT / model / "table.md").write_text(lines)
    files = [OUT / model / f"{file_of(method)}.json" for method in methods]
    subprocess.run([sys.executable, "-m", "qforge.report", OUT / model / "report.html", *files], check=True, cwd=ROOT)
    print(lines)


def run(out: Path, method: str, overrides: list[str], quiet: bool) -> dict[str, Any]:
    """One method's row, which may say why there is none."""
    name, _, group = method.partition("/")
    folder = out / file_of(method)
    shutil.rmtree(folder, ignore_errors=True)
    asked = [f"method={name}", *([f"group_size={group}"] if group else []), *NEEDS.get(name, "").split(), *overrides]
    command = [sys.executable, str(ROOT / "run.py"), *asked, f"hydra.run.dir={folder}"]
    with (out / f"{file_of(method)}.log").open("w") if quiet else nullcontext() as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log).returncode
    print(f"exit {code}  {method}", flush=True)
    shutil.copyfile(folder / "row.json", out / f"{file_of(method)}.json")
    row: dict[str, Any] = json.loads((folder / "row.json").read_text())
    return row


def file_of(method: str) -> str:
    """Of the file and the folder."""
    return method.replace("/", "-")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown; conditions above, since a number without them says nothing."""
    first = rows[0]
    texts = list(first["measured"]["evaluate"]["texts"])
    tasks = list(first["measured"]["evaluate"]["tasks"])
    timed = [
        r["measured"]["bench"]["runs"] for r in rows if "runs" in r["measured"]["bench"]
    ]  # emulated rows never are
    streams = list(timed[0]) if timed else []
    head = ["method", "group", "MB", "bits per weight", "of what is packed", *[f"PPL {t}" for t in texts], *tasks]
    head += [*[f"tokens/s at {c}" for c in streams], "GiB resident", "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        size, measured = row["size"], row["measured"]
        cells = [
            row["method"],
            str(row["group_size"] or ""),
            f"{size['bytes'] / 1e6:.1f}",
            f"{size['bits_per_weight']:.2f}",
        ]
        packed = size["quantized_bits_per_weight"]
        cells += [f"{packed:.2f}" if packed else ""]
        cells += [f"{measured['evaluate']['texts'][t]['perplexity']:.2f}" for t in texts]
        cells += [f"{measured['evaluate']['tasks'][t]['metrics']['acc']:.2f}" for t in tasks]
        bench = measured["bench"]
        cells += [f"{bench['runs'][c]['output_throughput']:.0f}" if "runs" in bench else "-" for c in streams]
        cells += [f"{bench['resident_gib']:.2f}" if "runs" in bench else "-"]
        cells += [verdict_of(row)]
        lines.append("| " + " | ".join(cells) + " |")
    conditions, machine = first["conditions"], first["machine"]
    version = next(
        (row["measured"]["serve"]["version"] for row in rows if "version" in row["measured"]["serve"]), "none"
    )
    lines += [
        "",
        f"{first['date']}, {first['model']}, {conditions['runtime']} (vLLM {version}) on "
        f"{machine['cpu']}, {machine['cores']} cores, qforge {first['qforge']['commit'][:9]}. Perplexity over "
        f"{conditions['windows']} windows of {conditions['context']} tokens per text, {conditions['task_samples']} "
        f"questions per task, throughput with {conditions['input_len']} tokens in and {conditions['output_len']} out, the "
        f"median of {conditions['repeats']}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
