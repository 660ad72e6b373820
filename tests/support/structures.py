"""In the quantizer's environment: what stages/structure.py says of small models, as JSON. Arguments: folder, numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qforge.stages.classes import build, saved
from qforge.stages.structure import compact, matrices, numbers

folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
found = {}
for kind, changed in asked.items():
    CONFIG_MAPPING[kind](**changed).save_pretrained(folder / kind)
    model = build(str(folder / kind), False, None)
    tensors = saved(model)
    found[kind] = {
        "built": type(model).__name__,
        "config": numbers(model.config),
        "tensors": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "matrices": compact(dict(matrices(model, {name: list(tensor.shape) for name, tensor in tensors.items()}))),
    }
print(json.dumps(found))
