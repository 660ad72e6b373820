"""What vLLM says of its model classes: which matrices it computes as one, and how it renames them.

Run in vLLM's environment at each new version, from the checkout: python envs/vllm_models.py > qforge/models/vllm_models.json
A class whose imports are missing there is left out: have torchvision, torchaudio and timm, too.
"""

import json
import sys

import vllm
from vllm.model_executor.models.registry import ModelRegistry

RENAMING = {
    "prefixes": "orig_to_new_prefix",
    "substrings": "orig_to_new_substr",
}  # of modules, as ignore lists name them


def known(cls: type) -> dict[str, dict[str, object]]:
    """The entry of a model class, without what is empty."""
    mapper = getattr(cls, "hf_to_vllm_mapper", None)
    fused = {
        part: whole for whole, parts in (getattr(cls, "packed_modules_mapping", None) or {}).items() for part in parts
    }
    stacked = getattr(mapper, "orig_to_new_stacked", {})
    fused |= {part.strip("."): whole.strip(".") for part, (whole, _) in stacked.items()}
    entry: dict[str, dict[str, object]] = {"fused": {part: whole for part, whole in fused.items() if part != whole}}
    for key, attribute in RENAMING.items():
        entry[key] = {old: new for old, new in getattr(mapper, attribute, {}).items() if new is not None}
    return {key: value for key, value in entry.items() if value}


classes = {}
for architecture, registered in sorted(ModelRegistry.models.items()):
    try:
        classes[architecture] = known(registered.load_model_cls())
    except ImportError as error:
        print(f"{architecture}: {error}", file=sys.stderr)
        classes[architecture] = {}  # vLLM has it, and how it names things is not known
lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in classes.items()]
print(f'{{\n "version": "{vllm.__version__}",\n "classes": {{\n' + ",\n".join(lines) + "\n }\n}")
