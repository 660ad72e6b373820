"""Every method on one model, each judged against bf16, as one Markdown table.

    python benchmarks/methods.py [method ...] [-- key=value ...]       or: make bench

Runs `run.py` once per method (what is known is reused) and prints the rows as they come; the table goes to
outputs/methods/table.md, the same as a page to report.html beside it, and each row, as JSON, to outputs/methods/<method>.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "outputs" / "methods"
METHODS = ["bf16", "fp8", "rtn", "gptq", "awq", "nvfp4", "nvfp4_llmc"]


def main() -> None:
    """Run, collect, print."""
    given, _, overrides = " ".join(sys.argv[1:]).partition("--")
    rows = [run(method, overrides.split()) for method in given.split() or METHODS]
    lines = table(rows)
    (OUT / "table.md").write_text(lines)
    files = [OUT / f"{row['method']}.json" for row in rows]
    subprocess.run([sys.executable, "-m", "qforge.report", OUT / "report.html", *files], check=True, cwd=ROOT)
    print(lines)


def run(method: str, overrides: list[str]) -> dict[str, Any]:
    """One method's row."""
    folder = OUT / method
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(ROOT / "run.py"), f"method={method}", f"hydra.run.dir={folder}", *overrides]
    subprocess.run(command, check=True, cwd=ROOT)
    shutil.copyfile(folder / "row.json", OUT / f"{method}.json")
    row: dict[str, Any] = json.loads((folder / "row.json").read_text())
    return row


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
        cells += [row["verdict"] if row["method"] != "bf16" else "baseline"]
        lines.append("| " + " | ".join(cells) + " |")
    conditions, machine = first["conditions"], first["machine"]
    lines += [
        "",
        f"{first['date']}, {first['model']}, {conditions['runtime']} (vLLM {first['measured']['serve']['version']}) on "
        f"{machine['cpu']}, {machine['cores']} cores, qforge {first['qforge']['commit'][:9]}. Perplexity over "
        f"{conditions['windows']} windows of {conditions['context']} tokens per text, {conditions['task_samples']} "
        f"questions per task, throughput with {conditions['input_len']} tokens in and {conditions['output_len']} out, the "
        f"median of {conditions['repeats']}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
