"""How a checkpoint whose method measures no scales of the KV cache gets those that stages/kv_scales.py has made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from qforge import json_files
from qforge.config.job import Job
from qforge.methods.restore import restore
from qforge.models import checkpoint, repository
from qforge.models.formats import CT

# of a checkpoint in which nothing but the cache is quantized, as llm-compressor writes it
PLAIN = {
    "quant_method": CT, "config_groups": {}, "format": "dense", "ignore": [], "quantization_status": "compressed",
}  # fmt: skip


def unquantized(
    job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None
) -> dict[str, Any]:
    """The source's weights as they are, in `out`: what method=bf16 makes. Copied: the source's files may be the user's own."""
    out.mkdir(parents=True)
    index = source / repository.INDEX
    for file in [*checkpoint.weight_files(source), *([index] if index.exists() else []), source / "config.json"]:
        shutil.copyfile(file, out / file.name)
    return {}


def add(scales: Path, artifact: Path, scheme: dict[str, Any]) -> None:
    """Put the tensors of the checkpoint in `scales` into `artifact`, and say so in its config.json."""
    restore(scales, artifact, list(checkpoint.headers(scales)))
    file = artifact / "config.json"
    config = json_files.read_json(file)
    config["quantization_config"] = {**(config.get("quantization_config") or PLAIN), "kv_cache_scheme": scheme}
    file.write_text(json.dumps(config, indent=2) + "\n")
