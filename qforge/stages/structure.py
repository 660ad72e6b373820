"""A model's own module tree, from its class built without weights: what each matrix of its checkpoint is.

Runs where transformers is. Nothing is loaded: the parameters lie on torch's meta device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Transpose,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)
from transformers.pytorch_utils import Conv1D

from qforge.envs.request import Request, stage
from qforge.models.modules import LEAF_KINDS
from qforge.models.structure import numbers, pattern
from qforge.stages import causal
from qforge.stages.classes import build, saved

DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}
FEW = 128  # outputs: a matrix with as many, one or two for each head, decides something and holds next to nothing


def structure(request: Request) -> dict[str, Any]:
    """Inputs: `model`, a folder with a config.json or a model of the hub; `names`, a JSON file with the names and shapes of
    its checkpoint's tensors, where they are known. A class that cannot be built is no error: the reason is the result."""
    job, names = request.job, request.inputs.get("names")
    version = f"transformers {transformers.__version__}"
    try:
        model = build(request.inputs["model"], job.model.trust_remote_code, job.model.revision)
    except (ValueError, ImportError, OSError) as error:
        return {"library": version, "built": None, "why": str(error).strip().splitlines()[0]}
    tensors = saved(model)
    wanted = json.loads(Path(names).read_text()) if names else {name: list(t.shape) for name, t in tensors.items()}
    return {
        "library": version,
        "built": type(model).__name__,
        "config": numbers(model.config),
        "matrices": compact(dict(matrices(model, wanted))),
        "core": causal.core(model),
        "tensors": None if names else {name: [DTYPES[t.dtype], list(t.shape)] for name, t in tensors.items()},
    }


def matrices(model: PreTrainedModel, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each matrix is. `shapes`: the checkpoint's tensors."""
    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    turns = {p: o for c in converters for p in c.source_patterns for o in c.operations if isinstance(o, Transpose)}
    state = dict(model.state_dict())
    kinds = dict(_kinds(model))
    for name, shape in shapes.items():
        if len(shape) < 2 or name.endswith("bias"):
            continue
        memory, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if memory not in kinds:
            continue
        module, _, leaf = memory.rpartition(".")
        matrix: dict[str, Any] = {"kind": kinds[memory], "module": module}
        holder = model.get_submodule(module)
        if matrix["kind"] == "expert" and len(shape) == 3:
            turn = turns.get(pattern)
            # one that looks first leaves alone what lies as in memory: Qwen3-VL's, saved again
            turned = turn is not None and not (turn.check_dims and list(shape) == list(state[memory].shape))
            matrix |= _stack(model, holder, leaf, turned)
        elif isinstance(holder, Conv1D):
            matrix["transposed"] = True
        common = hasattr(holder, "is_transposed") if holder.get_parameter(leaf).ndim == 3 else type(holder) is nn.Linear
        if not common and matrix["kind"] not in ("embedding", "convolution", "table"):
            matrix["own_class"] = type(holder).__name__
        yield name, matrix


def _stack(model: PreTrainedModel, experts: nn.Module, leaf: str, turned: bool) -> dict[str, Any]:
    """How the experts of a layer lie in one tensor: which dimension is the outputs, and which matrices share them."""
    weight = getattr(experts, leaf)
    hidden = model.config.get_text_config(decoder=True).hidden_size
    name = leaf if leaf != "weight" else next(n for n, m in model.named_modules() if m is experts).rpartition(".")[2]
    down = name in ("down_proj", "fc2", "w2", "output_linear")
    transposed = getattr(experts, "is_transposed", None)
    if transposed is None:  # not of transformers' common interface: down's outputs and the others' inputs are `hidden`
        first, second = (size == hidden for size in weight.shape[1:])
        if first == second:
            return {"kind": "unknown"}
        transposed = first != down
    gated = getattr(experts, "has_gate", True) and not down
    leaves = ["down_proj"] if down else ["gate_proj", "up_proj"] if gated else ["up_proj"]
    alternate = gated and not getattr(experts, "is_concatenated", True)
    return {"transposed": bool(transposed) != turned, "leaves": leaves, "alternate": alternate}


def _kinds(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Parameters with two dimensions or more -> their part in the model."""
    blocks = tuple(_blocks(model))
    within = blocks[0].rpartition(".")[0].rpartition(".")[0] if blocks else ""
    head, text = model.get_output_embeddings(), model.config.get_text_config(decoder=True)
    named = dict(model.named_modules())
    for name, module in named.items():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2:
                continue
            path = f"{name}.{leaf}"
            if module is head:
                yield path, "head"
            elif name.startswith(blocks):
                block = next(b for b in blocks if name.startswith(b))
                yield path, _in_block(named, block, name, leaf, parameter, text)
            elif within and not f"{name}.".startswith(f"{within}."):
                yield path, _beside(name)
            else:
                yield path, "embedding" if isinstance(module, nn.Embedding) else "outside"


def _blocks(model: PreTrainedModel) -> list[str]:
    """Where the language model's blocks begin: the lists, nearest to the decoder's top, that have one module for each, or all
    where none has."""
    decoder, count = model.get_decoder(), model.config.get_text_config(decoder=True).num_hidden_layers
    if isinstance(decoder, nn.Linear):  # ModernBERT's decoder calls its head so
        decoder = model.base_model
    top = next(name for name, module in model.named_modules() if module is decoder)
    lists = {f"{top}.{n}.".lstrip("."): m for n, m in decoder.named_modules() if isinstance(m, nn.ModuleList)}
    layers = {name: m for name, m in lists.items() if len(m) and not isinstance(m[0], nn.Linear)}
    stacks = [name for name, m in layers.items() if len(m) == count] or list(
        layers
    )  # HRM counts the layers of both its modules
    return [name for name in stacks if name.count(".") == min(other.count(".") for other in stacks)]


def _beside(name: str) -> str:
    """What is not the language model, by the name that transformers gives it."""
    for word, kind in (("project", "projector"), ("connector", "projector"), ("audio", "audio")):
        if word in name:
            return kind
    return "vision" if re.search("vis|image|patch", name) else "tower"


def _in_block(
    named: Mapping[str, nn.Module], block: str, name: str, leaf: str, parameter: nn.Parameter, text: PreTrainedConfig
) -> str:  # fmt: skip
    module, short = named[name], name.rpartition(".")[2]
    parts = name[len(block) :].split(".")[1:]
    above = [type(named[".".join(p)]).__name__ for p in _ancestors(name, block)]
    linear = isinstance(module, (nn.Linear, Conv1D))
    if parameter.ndim == 3 and ("experts" in parts or "Expert" in "".join(above)) and not isinstance(module, nn.Conv1d):
        return "expert"
    if any(re.search("Router|TopK|Gate$", kind) for kind in above) or (linear and LEAF_KINDS.get(short) == "router"):
        return "router"
    if any(re.search("Indexer|Compressor", kind) for kind in above):
        return "indexer"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if not linear:
        return "convolution" if "Conv" in type(module).__name__ else "table"
    outputs = parameter.shape[-1] if isinstance(module, Conv1D) else parameter.shape[0]
    if short not in LEAF_KINDS and outputs <= FEW and _one_for_each_head(outputs, text):
        return "gate"
    if any("shared_" in part for part in parts):
        return "shared_expert"
    if "experts" in parts:
        return "expert"
    if any(hasattr(named[".".join(p)], "x_proj") for p in _ancestors(name, block)):
        return "state_space"
    kinds = " ".join(above)
    if re.search("Mamba|Mixer|DeltaNet|ShortConv|Recurrent|Lightning|LinearAttention|SSM", kinds):
        return "attention" if re.search(r"Attention\b", kinds) and "LinearAttention" not in kinds else "mixer"
    return "attention" if "ttention" in kinds or "ttn" in ".".join(parts) else "mlp"


def _ancestors(name: str, block: str) -> Iterator[list[str]]:
    """Paths of the modules from below the block down to `name` itself."""
    parts, depth = name.split("."), block.count(".") + 1
    return (parts[:end] for end in range(depth + 1, len(parts) + 1))


def _one_for_each_head(outputs: int, text: PreTrainedConfig) -> bool:
    keys = ("linear_num_value_heads", "mamba_num_heads", "mamba_n_heads")
    heads = {getattr(text, key, None) for key in keys}
    few = outputs < 32 or outputs == getattr(text, "num_attention_heads", None)
    return few or any(count and outputs in (count, 2 * count) for count in heads)


def compact(matrices: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One entry for the matrices whose names differ in their numbers alone, where they are the same."""
    by_pattern: dict[str, dict[str, dict[str, Any]]] = {}
    for name, facts in matrices.items():
        facts = {**facts, "module": pattern(facts["module"])}
        by_pattern.setdefault(pattern(name), {})[name] = facts
    entries: dict[str, dict[str, Any]] = {}
    for shape, members in by_pattern.items():
        same = all(a == b for a, b in pairwise(members.values()))
        entries |= {shape: next(iter(members.values()))} if same else members
    return entries


if __name__ == "__main__":
    stage(structure)
