"""Runs in the quantizer's environment: load each checkpoint in a folder with transformers, say what did not fit, save it.

python save_again.py FOLDER...
"""

import json
import sys
from pathlib import Path

import transformers

transformers.logging.set_verbosity_error()
for folder in map(Path, sys.argv[1:]):
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, architecture).from_pretrained(
        folder, dtype="bfloat16", output_loading_info=True, ignore_mismatched_sizes=True
    )
    (folder / "report.json").write_text(json.dumps({key: sorted(map(str, found)) for key, found in report.items()}))
    model.save_pretrained(folder / "saved")
