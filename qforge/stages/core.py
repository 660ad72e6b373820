"""The text core of a multimodal checkpoint as a checkpoint of its own: a causal language model under its own names.

Then both models run on the same few tokens, with the source's weights, and must say the same.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from qforge import json_files
from qforge.envs.request import Refused, Request, stage
from qforge.methods import stacks
from qforge.models import checkpoint, structure
from qforge.models.auto_class import automatic
from qforge.models.checkpoint import Stored, Tensor
from qforge.models.core import Core
from qforge.models.modules import Module, block_of, from_tensors
from qforge.models.shards import Shard, in_files, write_index
from qforge.stages import causal, classes
from qforge.stages.quantize import copy_companions

TOKENS = 32
# Float32 on both sides, the same operations in the same order: no difference at all in what was run (transformers 5.17). Two
# rotary embeddings or a scale left out differ by a hundred times this
TOLERANCE = 1e-3  # of the largest logit
STREAMS = "use method=rtn, w8a8, fp8 or nvfp4_llmc, which need no model"


def core(request: Request) -> dict[str, Any]:
    """Writes <out>/model. Raises Refused where transformers has no causal model for the core, or it computes another thing."""
    source, out, model = Path(request.inputs["source"]), Path(request.out, "model"), request.job.model
    read = structure.read(Path(model.structure)) if model.structure else None
    tree = from_tensors(checkpoint.headers(source), json_files.read_json(source / "config.json"), read)
    assert request.core
    try:
        whole = classes.build(str(source), model.trust_remote_code, None)
        config = causal.config(whole)
        write(config, request.core, tree, source, out)
    except ValueError as error:
        raise Refused(f"model={model.name}: {error}; {STREAMS}") from None
    depth = enough(config, [m for m in tree if m.block is not None])
    said, apart = settle(source, out, config, causal.unsaid(whole, config), depth, model.trust_remote_code)
    if not apart <= TOLERANCE:
        raise Refused(
            f"model={model.name}: as a {config.model_type} its text core computes something else: on {TOKENS} tokens its "
            f"logits differ from the whole model's by {apart:.2g} of the largest; {STREAMS}"
        )
    return {
        "kind": config.model_type, "said": said, "library": f"transformers {transformers.__version__}",
        "compared": {"tokens": TOKENS, "blocks": depth, "difference": apart},
    }  # fmt: skip


def write(config: PreTrainedConfig, part: Core, tree: Sequence[Module], source: Path, out: Path) -> None:
    """The causal model of `config` in `out`, made of the source's tensors and files, but for its config.json."""
    config.tie_word_embeddings = part.head is None
    model = causal.built(config)
    config.architectures = [type(model).__name__]
    out.mkdir()
    wanted = {name: list(tensor.shape) for name, tensor in classes.saved(model).items()}
    take_out(part, wanted, checkpoint.headers(source), tree, out)
    copy_companions(source, out)


def settle(
    source: Path, out: Path, config: PreTrainedConfig, unsaid: Sequence[str], depth: int, trusted: bool
) -> tuple[dict[str, bool], float]:
    """Write the core's config.json with the switches under which it says what the whole model says, and which of them are not
    the default's; and the largest difference of the logits left, as a part of the largest logit.

    Both run their first `depth` blocks. A switch that the whole model does not have is decided by its code: Qwen3-VL's routers
    always normalize, a qwen3_moe's only with norm_topk_prob.
    """
    own = AutoConfig.from_pretrained(source, trust_remote_code=trusted)
    expected = _logits(classes.of_its_own(own) or automatic(own), source, depth, trusted)
    tried: list[tuple[float, dict[str, bool]]] = []
    for switch in ("", *unsaid):
        said = {switch: not getattr(config, switch)} if switch else {}
        turned = deepcopy(config)
        turned.update(said)
        turned.save_pretrained(out)
        found = _logits(AutoModelForCausalLM, out, depth, trusted)
        tried.append((float((found - expected).abs().max() / expected.abs().max()), said))
        if tried[-1][0] <= TOLERANCE:
            return said, tried[-1][0]
    return {}, tried[0][0]


def take_out(
    core: Core, wanted: Mapping[str, Sequence[int]], tensors: Mapping[str, Stored], tree: Sequence[Module], out: Path
) -> None:
    """Write the tensors `wanted`, by the core's names and shapes, to `out`, a piece at a time.

    `tensors` and `tree` are the source's. Experts that lie in one tensor come apart where they are wanted one by one. Raises
    ValueError for a tensor that the source does not have.
    """
    cut = {f"{m.name}.weight": m for module in tree if module.stack > 1 for m in stacks.parts(module)}
    there = {name: core.outside(name) for name in wanted}
    planned = {}
    for name, shape in wanted.items():
        matrix = cut.get(there[name])
        apart = Tensor("BF16", (matrix.out_features, matrix.in_features)) if matrix else None
        stored = tensors.get(there[name], apart)
        if stored is None or list(stored.shape) != list(shape):
            found = f"is {list(stored.shape)}" if stored else "is missing"
            raise ValueError(f"its text core needs {there[name]} as {list(shape)}, which {found}")
        planned[name] = stored
    files = in_files(planned)
    for file, held in files.items():
        shard = Shard(out / file, held)
        shard.open()
        for name in held:
            if there[name] in tensors:
                shard.copy(name, tensors[there[name]])
                continue
            matrix = cut[there[name]]
            rows = torch.empty(matrix.out_features, matrix.in_features, dtype=torch.bfloat16)
            stacks.load(rows, matrix, tensors[matrix.tensor])
            shard.put(name, memoryview(rows.view(-1).view(torch.uint8).numpy()))
        shard.close()
    write_index(out, files)


def enough(config: PreTrainedConfig, tree: Sequence[Module]) -> int:
    """How many blocks have one of each kind among them: by their matrices, and by the lists of config.json, such as
    layer_types."""
    count = int(config.num_hidden_layers)
    lists = [value for _, value in _per_block(config, count)]
    matrices: dict[int, set[tuple[str, int, int]]] = {number: set() for number in range(count)}
    for module in tree:
        assert module.block is not None
        short = structure.pattern(module.name.removeprefix(block_of(module.name) or ""))
        matrices.setdefault(module.block, set()).add((short, module.out_features, module.in_features))
    kinds = [str((sorted(matrices[number]), [values[number] for values in lists])) for number in range(count)]
    return max(2, 1 + max(kinds.index(kind) for kind in kinds))


def _logits(loads: Any, folder: Path, depth: int, trusted: bool) -> torch.Tensor:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    text = config.get_text_config(decoder=True)
    for key, values in list(_per_block(text, text.num_hidden_layers)):
        setattr(text, key, values[:depth])
    text.num_hidden_layers = min(depth, text.num_hidden_layers)
    model = loads.from_pretrained(folder, config=config, dtype=torch.float32, trust_remote_code=trusted).eval()
    tokens = torch.randint(3, min(text.vocab_size, 1000), (1, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits: torch.Tensor = classes.speaker(model)(input_ids=tokens, use_cache=False).logits.float()
    del model
    gc.collect()
    return logits


def _per_block(text: PreTrainedConfig, count: int) -> Iterator[tuple[str, list[Any]]]:
    """The lists of a configuration that have an entry for each block."""
    for key, values in text.to_dict().items():
        if isinstance(values, list) and len(values) == count:
            yield key, values


if __name__ == "__main__":
    stage(core)
