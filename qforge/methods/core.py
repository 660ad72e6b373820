"""The quantized text core of a multimodal checkpoint, put back among what is beside it (taken out by stages/core.py)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from qforge.json_files import read_json
from qforge.models.checkpoint import OWN_CONFIGS, headers
from qforge.models.core import Core, renamed
from qforge.models.shards import copy_all


def put_back(core: Core, packed: Path, source: Path, out: Path, exempt: Collection[str], kept: Collection[str]) -> None:
    """Write the whole checkpoint to `out`: the quantized core in `packed`, under the source's names, and of the source what
    is `kept` and not in it. `exempt`: the modules in 16 bits, by the source's names."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {core.outside(name): tensor for name, tensor in headers(packed).items()}
    tensors |= {name: tensor for name, tensor in headers(source).items() if name in kept and name not in tensors}
    copy_all(tensors, out)
    own = read_json(packed / "config.json").get("quantization_config")
    config = read_json(source / "config.json")
    _write(out / "config.json", {**config, "quantization_config": renamed(own, exempt)} if own else config)
    for name in OWN_CONFIGS:
        if name.startswith(("hf_quant", "quant")) and (packed / name).is_file():
            _write(out / name, renamed(read_json(packed / name), exempt))


def _write(file: Path, content: Mapping[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
