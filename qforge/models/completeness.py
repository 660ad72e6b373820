"""Is a model all there: its tensors against its own config.json, before any work.

Of an architecture that is known every tensor is known, and its shape. Of others: that no block is missing, that the blocks
of one kind have the same tensors, and that embedding and head are as large as the vocabulary.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from qforge.models import architectures
from qforge.models.checkpoint import Tensor
from qforge.models.modules import DRAFT
from qforge.models.structure import NUMBERS
from qforge.models.vllm_names import mapped

BLOCK = re.compile(r"(?P<stack>(?:.*?\.)?(?:layers|h|blocks)\.)(?P<number>\d+)\.(?P<rest>.+)")
BESIDE = re.compile(
    rf"vis|audio|talker|code2wav|encoder|projector|{DRAFT.pattern}"
)  # stacks that are not the language model
NUMBER = re.compile(r"\d+")
# Names that training or an adapter has put around those of the model: no loader knows them
WRAPPED = re.compile(
    r"^(module|base_model\.model)\.|(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
ADAPTER = re.compile(r"\.(lora_[AB]|base_layer)\.")
HEAD = re.compile(r"(?:head|embed_out|output|lm_head\.\w+)\.weight$")
VOCABULARY = ("embed_tokens.weight", "lm_head.weight")
EXPERTS = NUMBERS["num_experts"]
FEW = 2  # blocks: where so few lack what more have, it was lost; a kind of their own has mostly more


def refuse(
    model: str, tensors: Mapping[str, Tensor], config: dict[str, Any], text: dict[str, Any] | None = None
) -> None:
    """Raises ValueError that names what is missing from the tensors, or differs from config.json.

    `text`: the language model's numbers under their usual names, where config.json has others (n_layer).
    """
    if fault := next(_faults(tensors, config, text or architectures.language(config)), None):
        raise ValueError(f"model={model}: {fault}; fetch or save the model again, or correct its config.json")


def _faults(tensors: Mapping[str, Tensor], config: dict[str, Any], text: dict[str, Any]) -> Iterator[str]:
    expected, blocks = _expected(config), _blocks(tensors)
    yield from _wrapped_faults(tensors, config)
    yield from _block_faults(blocks, text)
    yield from _family_faults(tensors, expected, config) if expected else _odd_blocks(blocks, text)
    yield from _expert_faults(tensors, text)
    yield from _head_faults(tensors, config, text, expected)
    yield from _vocabulary_faults(tensors, text)


def _expected(config: dict[str, Any]) -> dict[str, Tensor]:
    """What a known architecture has by this config.json; empty for one that is not known, or is spelled otherwise."""
    try:
        return architectures.tensors(config)
    except ValueError:
        return {}


def _blocks(tensors: Mapping[str, Tensor]) -> dict[str, dict[int, set[str]]]:
    """Of the language model: what its blocks' names begin with -> number -> names of tensors in it; the largest stack. None
    where a second one is made as that is (HRM's two modules)."""
    stacks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in tensors:
        if (match := BLOCK.fullmatch(name)) and not BESIDE.search(match["stack"]):
            stacks[match["stack"]][int(match["number"])].add(match["rest"])
    largest = max(stacks, key=lambda stack: sum(map(len, stacks[stack].values())), default=None)
    twins = [stack for stack, blocks in stacks.items() if stack != largest and blocks == stacks[str(largest)]]
    return {} if largest is None or twins else {largest: stacks[largest]}  # how twins are counted is the class's own


def _wrapped_faults(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[str]:
    if name := next((name for name in tensors if WRAPPED.search(name)), None):
        yield f"{name} has a name that a wrapper of training gave it, which no loader looks for: save the model that is inside"
    if any("lora" in key for key in config):  # Phi-4 multimodal's own, which its class has a place for
        return
    if name := next((name for name in tensors if ADAPTER.search(name)), None):
        yield f"{name} is of an adapter that is not merged: merge it first (peft: merge_and_unload)"


def _block_faults(stacks: Mapping[str, Mapping[int, set[str]]], text: Mapping[str, Any]) -> Iterator[str]:
    count = text.get("num_hidden_layers")
    for stack, blocks in stacks.items():
        if not isinstance(count, int):
            return
        if missing := sorted(set(range(count)) - set(blocks)):
            yield f"{_several([f'{stack}{n}' for n in missing])} missing: config.json says num_hidden_layers={count}"
        more = sorted(n for n in blocks if n >= count)
        drafting = any("eh_proj" in rest for n in more for rest in blocks[n])  # multi-token prediction
        if more and not drafting and len(more) > int(text.get("num_nextn_predict_layers") or 0):
            yield f"{stack}{more[-1]} is in the checkpoint, and config.json says num_hidden_layers={count}"


def _family_faults(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: dict[str, Any]
) -> Iterator[str]:
    absent = [name for name in expected if name not in tensors and not name.endswith("lm_head.weight")]
    if absent and (lost := _lost(absent, tensors)):
        yield f"{_several(lost)} missing from the checkpoint"
    if absent:
        yield from _renamed(absent, tensors, expected, config)
    for name in [name for name in expected if name in tensors]:
        shape, wanted = tensors[name].shape, expected[name].shape
        if shape != wanted and not name.endswith(VOCABULARY):
            yield f"{name} has the shape {list(shape)}, and config.json gives {list(wanted)}"


def _renamed(
    absent: list[str], tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: dict[str, Any]
) -> Iterator[str]:
    """What the language model's blocks lack, or have under names that neither the class nor vLLM's name mapper knows: a fused
    QKV in a Llama, another prefix. A layer's experts may lie in one tensor."""
    served = mapped(config)
    there = {served(name): name for name in tensors}
    known = {served(name) for name in expected}
    stacks = {name.partition(".experts.")[0] for name in there if name and _stacked(name)}
    for name in absent:
        block = BLOCK.fullmatch(name)
        own = served(name)
        if not block or BESIDE.search(name) or own is None or own in there:
            continue
        if ".experts." in own and own.partition(".experts.")[0] in stacks:
            continue
        strange = [file for at, file in there.items() if at not in known and not BESIDE.search(file)]
        if other := _in_its_place(block, strange):
            yield (
                f"{other} is no name of a {config['model_type']}, whose class looks for {name}: a loader that does not find it "
                "leaves it random"
            )
        else:
            yield f"{name} is missing from the checkpoint"


def _stacked(name: str) -> bool:
    """Whether it holds the experts of a layer."""
    return ".experts." in name and not NUMBER.search(name.rpartition(".experts.")[2])


def _in_its_place(block: re.Match[str], strange: list[str]) -> str | None:
    """Of the strange names the one that most likely is meant: in the same part of the same block, or in it at all."""
    places = (f"{block['number']}.{block['rest'].partition('.')[0]}.", f"{block['number']}.")
    return next((name for place in places for name in strange if f".{place}" in f".{name}"), None)


def strangers(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> list[str]:
    """Tensors that a known architecture has no place for by this config.json, where all that it has is there."""
    expected = _expected(config)
    if not expected or any(name not in tensors for name in expected if not name.endswith("lm_head.weight")):
        return []
    count = int(architectures.language(config)["num_hidden_layers"])

    def beside(name: str) -> bool:
        block = BLOCK.fullmatch(name)
        return bool(DRAFT.search(name) or HEAD.search(name) or (block and int(block["number"]) >= count))

    return [name for name in tensors if name not in expected and not beside(name)]


def _lost(absent: list[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Of the names that are not there those that this checkpoint does not spell otherwise (stacked experts, other prefixes):
    other blocks have the same, or, of what is no part of a block, the stack is called as expected."""
    spelled = {NUMBER.sub("N", name) for name in tensors}
    parents = {name.partition("layers.")[0] for name in tensors if ".layers." in name}

    def same_spelling(name: str) -> bool:
        if NUMBER.search(name):
            return NUMBER.sub("N", name) in spelled
        return name.removesuffix(".weight").rpartition(".")[0] + "." in parents

    return [name for name in absent if same_spelling(name)]


def _expert_faults(tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> Iterator[str]:
    """Layers with fewer experts than config.json says: what is lost in every layer no comparison of blocks finds."""
    count = next((value for key in EXPERTS if type(value := text.get(key)) is int), 0)
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in tensors:
        layer, dot, rest = name.partition(".experts.")
        if dot and not BESIDE.search(name) and (number := rest.partition(".")[0]).isdecimal():
            numbers[layer].add(int(number))
    for layer, found in numbers.items():
        if lost := sorted(set(range(count)) - found):
            yield f"{_several([f'{layer}.experts.{n}' for n in lost])} missing: config.json says that there are {count} experts"


def _odd_blocks(stacks: Mapping[str, Mapping[int, set[str]]], text: Mapping[str, Any]) -> Iterator[str]:
    """Of an architecture that is not known: few blocks that lack what more blocks of the same kind have."""
    if "block_configs" in text:  # each block has a shape of its own
        return
    for stack, blocks in stacks.items():
        alike: dict[tuple[Any, frozenset[str]], list[int]] = defaultdict(list)
        for number, names in blocks.items():
            alike[_kind(number, text), frozenset(names)].append(number)
        for (kind, rests), few in alike.items():
            for (other, whole), more in alike.items():
                if kind == other and rests < whole and len(few) <= FEW and len(few) < len(more):
                    lost = [f"{stack}{few[0]}.{rest}" for rest in sorted(whole - rests)]
                    yield f"{_several(lost)} missing: {len(more)} blocks of the same kind have it"


def _kind(number: int, text: Mapping[str, Any]) -> tuple[Any, ...]:
    """What config.json says block by block: layer_types, hybrid_override_pattern ..."""
    count = int(text.get("num_hidden_layers") or 0)
    return tuple(
        str(value[number])
        for key, value in text.items()
        if (isinstance(value, list) or (isinstance(value, str) and "pattern" in key)) and len(value) == count > number
    )


def _head_faults(
    tensors: Mapping[str, Tensor], config: dict[str, Any], text: dict[str, Any], expected: Mapping[str, Tensor]
) -> Iterator[str]:
    """A head that config.json says is there. Where it does not say, the class decides: of known families it is known."""
    has = any(HEAD.search(name) for name in tensors)
    explicit = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    wanted = explicit is False or (explicit is None and "lm_head.weight" in expected)
    if wanted and not has and any(name.endswith("embed_tokens.weight") for name in tensors):
        yield (
            "lm_head.weight is missing, and config.json says that it is not the embedding (tie_word_embeddings=false); if "
            "it is, set tie_word_embeddings=true there"
        )


def _vocabulary_faults(tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> Iterator[str]:
    size = text.get("vocab_size")
    for name, tensor in tensors.items():
        if name.endswith(VOCABULARY) and not BESIDE.search(name) and isinstance(size, int) and tensor.shape[0] != size:
            yield f"{name} has {tensor.shape[0]} rows, and config.json says vocab_size={size}"


def _several(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more are" if len(names) > 1 else f"{names[0]} is"
