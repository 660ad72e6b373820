"""results/omni.md, drawn from the rows in results/omni/ and from plans made anew:

    python benchmarks/omni_page.py

Qwen3-Omni: its plan on three kinds of hardware as the terminal shows it; then, of what was run, each method against bf16, the
answers to a sound and a picture, the spoken answers, what the talker is handed, and transformers beside vLLM.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from results_page import called, closeness, dates, markdown, measured_by, quality, read, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge.report import engines

ROWS = ROOT / "results" / "omni"
PLAN = ["model=qwen3_omni_30b", "method=nvfp4_llmc", "gate=target", "runtime=[vllm_omni,vllm]", "plan_only=true"]
HARDWARE = {"thor": "Jetson AGX Thor", "h100": "H100", "b200": "B200"}
COLUMNS = 120
Row = dict[str, Any]


def main() -> None:
    (ROOT / "results" / "omni.md").write_text(page())


def page() -> str:
    """The page, of every row."""
    rows = [read(file) for file in sorted(ROWS.glob("*.json"))]
    lines = [
        "# Qwen3-Omni",
        "",
        "Drawn by `python benchmarks/omni_page.py`: do not edit. How it is done is in docs/howto/omni.md.",
        "",
        "## Planned",
        "",
        "Plans, not measurements: the thinker in NVFP4 for text and speech, against the tier of 20 GB and 5 tokens/s.",
    ]
    for hw, name in HARDWARE.items():
        command = ["python", "run.py", *PLAN, f"hw={hw}"]
        lines += ["", f"### {name}", "", "```text", f"$ {shlex.join(command)}", *planned(hw), "```"]
    if rows:
        lines += ["", "## Run", "", *measured(rows)]
    return "\n".join(lines).rstrip() + "\n"


def planned(hw: str) -> list[str]:
    """What the terminal says, but for the folder of the run."""
    command = [sys.executable, "run.py", *PLAN, f"hw={hw}"]
    environ = {**os.environ, "COLUMNS": str(COLUMNS)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    return [line.rstrip() for line in done.stdout.splitlines()[:-1]]


def measured(rows: list[Row]) -> list[str]:
    """What was run, part by part; a part that no row has is left out. Rows of bf16 alone are there to compare engines."""
    engine, rows = [row for row in rows if not row["baseline"]], [row for row in rows if row["baseline"]]
    parts = {
        "Each method": table(rows, losses),
        "A sound and a picture": markdown([{"method": name, **cells} for name, cells in asked(rows)]),
        "Spoken": markdown(list(spoken(rows))),
        "What the talker is handed": table(rows, handed),
        "transformers against vLLM": markdown(list(beside(engine))),
    }
    lines: list[str] = []
    for title, found in parts.items():
        lines += [f"### {title}", "", *found, ""] if found else []
    verdicts = [f"- {called(row)}: {row['says']}" for row in rows if row["goals"]]
    commands = [f"    {row['command']}" for row in [*rows, *engine]]
    return [
        f"{dates([*rows, *engine])}, {measured_by(rows[0])}",
        "",
        *lines,
        *(["### Verdicts", "", *verdicts, ""] if verdicts else []),
        "### Commands",
        "",
        *commands,
    ]


def losses(row: Row) -> dict[str, str]:
    """Bits, quality, distance from bf16, and how it was served."""
    bits = {"bits per weight": f"{row['size']['bits_per_weight']:.2f}", "served": row["serving"]["how"]}
    return {**bits, **quality(row), **closeness(row)}


def asked(rows: list[Row]) -> list[tuple[str, dict[str, str]]]:
    """How many tokens a sound and a picture became, and how the answer began."""
    found = []
    for row in rows:
        for name, answer in (row["measured"]["serve"].get("multimodal") or {}).items():
            cells = {
                "asked with": name,
                "tokens of the question": str(answer["tokens"]),
                "answer": said(answer["answer"]),
            }
            found.append((called(row), cells))
    return found


def spoken(rows: list[Row]) -> Any:
    """A line per answer, bf16's first."""
    theirs = next((row["baseline"] for row in rows if (row["baseline"] or {}).get("speak")), None)
    sides = [("bf16", theirs)] if theirs else []
    for name, side in [*sides, *((called(row), row["measured"]) for row in rows)]:
        speak = (side or {}).get("speak") or {}
        for answer in speak.get("answers", []):
            factor = answer["real_time_factor"]
            yield {
                "method": name, "asked": answer["question"], "codes": str(answer["codes"]),
                "sound, s": f"{answer['seconds']:.2f}", "RMS, dB": f"{answer['rms_dbfs']:.1f}",
                "faults": "; ".join(answer["faults"]) or "none", "first text, s": f"{answer['first_text_seconds']:.2f}",
                "first sound, s": f"{answer['first_sound_seconds']:.2f}",
                "real-time factor": f"{factor:.2f}" if factor else "", "text as vLLM's": agreement(speak["text"]),
            }  # fmt: skip


def agreement(text: Row) -> str:
    """How many of the answers plain vLLM writes, too."""
    return str(text.get("not_measured") or f"{text['equal']} of {text['answers']}")


def handed(row: Row) -> dict[str, str]:
    found = row["measured"].get("handed")
    if not found:
        return {}
    return {
        "blocks": str(found["layer"]), "tokens of text": str(found["tokens"]), "cosine to bf16's, mean": f"{found['mean']:.4f}",
        "least": f"{found['least']:.4f}",
    }  # fmt: skip


def beside(rows: list[Row]) -> Any:
    for line in engines.compared(rows):
        yield {
            "engine": line["engine"], "method": line["method"], "memory, GiB": f"{line['gib']:.2f}",
            "streams": str(line["streams"]), "tokens/s": f"{line['rate']:.1f}", "over the first": f"{line['gain']:.2f}",
        }  # fmt: skip


def said(text: str) -> str:
    """The beginning of an answer in a cell; random weights answer anything."""
    plain = "".join(letter if letter.isalnum() else " " for letter in text)
    return " ".join(plain.split())[:40]


if __name__ == "__main__":
    main()
