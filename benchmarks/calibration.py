"""What calibration does to a method: its size, its source, the lengths of its sequences. Perplexity on two kinds of text.

    python benchmarks/calibration.py MODEL METHOD [STUDY ...] [-- key=value ...]

Runs `run.py` once per study, scored by transformers, and prints what comes out; each row, as JSON, goes to
outputs/calibration/MODEL-METHOD/. results/calibration/ keeps them, drawn by benchmarks/results_page.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STUDIES = {
    "wikitext-8x512": "calib=wikitext calib.sequences=8",
    "wikitext-32x512": "calib=wikitext calib.sequences=32",
    "wikitext-128x512": "calib=wikitext calib.sequences=128",
    "python-32x512": "calib=python calib.sequences=32",
    "mixed-32x512": "calib=mixed calib.sequences=32",
    "mixed-128x512": "calib=mixed calib.sequences=128",
    "wikitext-8x2048": "calib=wikitext calib.sequences=8 calib.length=2048",
    "wikitext-128x128": "calib=wikitext calib.sequences=128 calib.length=128",
    "wikitext-14-mixed": "calib=wikitext calib.sequences=14 calib.length=2048 calib.lengths=[1.0,0.5,0.25]",  # 16.9k tokens
}


def main() -> None:
    """Run, collect, print."""
    given, _, overrides = " ".join(sys.argv[1:]).partition("--")
    model, method, *studies = given.split()
    out = ROOT / "outputs" / "calibration" / f"{model}-{method}"
    for study in studies or STUDIES:
        row = run(out, model, method, study, overrides.split())
        seen, texts = row["calibration"], row["measured"]["evaluate"]["texts"]
        scores = "; ".join(f"{name} {text['perplexity']:.2f}" for name, text in texts.items())
        print(f"{study}: {seen['tokens']} tokens in {seen['sequences']} sequences: {scores}", flush=True)


def run(out: Path, model: str, method: str, study: str, overrides: list[str]) -> dict[str, Any]:
    """One study's row, with the manifest of what it was calibrated on."""
    folder = out / study
    shutil.rmtree(folder, ignore_errors=True)
    scored = ["runtime=transformers", "eval.tasks=[]", "eval.stability.prompts=null"]
    asked = [f"model={model}", f"method={method}", *STUDIES[study].split(), *scored, *overrides]
    stages = "stages=[quantize,inspect,evaluate,judge,report]"
    command = [sys.executable, str(ROOT / "run.py"), *asked, stages, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, cwd=ROOT)
    row = json.loads((folder / "row.json").read_text())
    row["calibration"] = json.loads((folder / "calibrate.json").read_text())
    (out / f"{study}.json").write_text(json.dumps(row, indent=2) + "\n")
    return dict(row)


if __name__ == "__main__":
    main()
