"""results/architectures.md, out of what benchmarks/architectures.py left in its folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from tiny_types import CALIBRATION, PROMPTS, SERVING

from qforge.json_files import read_json

ROOT = Path(__file__).resolve().parent.parent
ABOUT = """# Architectures: what becomes of transformers' causal language models

Drawn by `benchmarks/architectures.py`, {date}: do not edit. Tiny random checkpoints (two layers, or one of each kind, as
transformers {transformers} itself saves them), planned for an H100, quantized on a CPU (rtn and gptq at group 32; gptq sees
{sequences} sequences of {length} random tokens), inspected. In brackets: matrices quantized, of all but embeddings. Cosine: of
the logits, the unpacked checkpoint's beside the source's, through transformers in float32, mean over {tokens} tokens. These
are random weights: the figures show that each matrix lies where it belongs, and nothing about the quality of a model. "Known
by": the names of the matrices, or transformers' own class built without weights.
"""
SERVED = """## Served

By vLLM's CPU build 0.32: bf16, and rtn at group 32 with the experts of mixtures in bf16, since INT4 experts on a CPU need AMX.
Mean absolute difference of the log-probabilities of the prompts' tokens, in nats: vLLM's beside transformers' (float32) for
bf16 and for the quantized checkpoint, and quantized beside bf16 in either. Where the quantized checkpoint is as near to
transformers' as bf16 is, vLLM reads every matrix as it was meant. The text of random weights turns on the smallest difference,
so it is not compared. What is not served has vLLM's last message.
"""


def page(folder: Path, types: Sequence[str], methods: Sequence[str], served: Sequence[str]) -> str:
    """The whole page."""
    lock = (ROOT / "envs" / "quant.txt").read_text()
    facts = {
        "date": time.strftime("%Y-%m-%d"), "transformers": lock.partition("\ntransformers==")[2].split()[0], **CALIBRATION,
        "tokens": sum(map(len, PROMPTS)),
    }  # fmt: skip
    return "\n".join(
        [ABOUT.format(**facts), *made_rows(folder, types, methods), "", SERVED, *served_rows(folder, served), ""]
    )


def made_rows(folder: Path, types: Sequence[str], methods: Sequence[str]) -> list[str]:
    """A row for each type, below how many work."""
    head = ["type", "known by", *(f"{method}: {what}" for method in methods for what in ("result", "cosine"))]
    lines, working = [row(head), row(["---"] * len(head))], dict.fromkeys(methods, 0)
    for kind in types:
        if (file := folder / f"{kind}.skipped").exists():
            lines.append(row([kind, f"not made: {file.read_text()}", *[""] * (len(head) - 2)]))
            continue
        cells: list[str] = []
        by = "names"
        for method in methods:
            state = read_json(folder / "made" / kind / method / "state.json")
            bad = next((said for step in STEPS if (said := state.get(step, "works")) != "works"), None)
            cosine = state.get("cosine", "")
            cells.append(bad or f"works ({state['quantized']} of {state['of']})")
            cells.append(f"{cosine:.3f}" if isinstance(cosine, float) else cosine)
            working[method] += bad is None
            by = "transformers" if state.get("structure") else by
        lines.append(row([kind, by, *cells]))
    counts = ", ".join(f"{count} by {method}" for method, count in working.items())
    return [f"Of {len(types)} types work: {counts}.", "", *lines]


STEPS = ("plan", "quantize", "inspect")


def served_rows(folder: Path, types: Sequence[str]) -> list[str]:
    """What vLLM says of each type, or why it does not serve it."""
    between = ("bf16: vLLM, transformers", "rtn: vLLM, transformers", "vLLM: rtn, bf16", "transformers: rtn, bf16")
    head = ["type", "quantized", *between]
    lines, works = [row(head), row(["---"] * len(head))], 0
    for kind in types:
        made = folder / "made" / kind / SERVING
        state = read_json(made / "state.json")
        files = {"bf16": folder / f"{kind}.served.json", "rtn": made / "artifact.served.json"}
        if (why := unserved(files, state)) is not None:
            lines.append(row([kind, why, *[""] * len(between)]))
            continue
        works += 1
        plain, packed = (read_json(file)["logp"] for file in files.values())
        pairs = [
            (plain, state["source_logp"]),
            (packed, state["logp"]),
            (packed, plain),
            (state["logp"], state["source_logp"]),
        ]
        lines.append(row([kind, f"{state['quantized']} of {state['of']}", *(f"{apart(*pair):.3f}" for pair in pairs)]))
    return [f"{works} of {len(types)} are served.", "", *lines]


def unserved(files: dict[str, Path], state: dict[str, object]) -> str | None:
    """Why there is nothing to compare."""
    if bad := next((said for step in STEPS if (said := state.get(step, "not run")) != "works"), None):
        return str(bad)
    if "logp" not in state:
        return f"transformers: {state.get('cosine')}"
    for name, file in files.items():
        if failed := read_json(file).get("failed") if file.exists() else "not run":
            return f"{name}: {failed}"
    return None


def apart(some: Sequence[float], others: Sequence[float]) -> float:
    """The mean absolute difference."""
    return fmean(abs(a - b) for a, b in zip(some, others, strict=True))


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
