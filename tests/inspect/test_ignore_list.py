"""vLLM's reading of ignore lists: ours against a plain re-implementation of its three matchers, entry by random entry."""

from __future__ import annotations

import functools
import json
import re
from fnmatch import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import ROOT

from qforge.config.job import Rule
from qforge.inspect import ignore_list
from qforge.models import architectures, modules
from qforge.models.modules import Module
from qforge.plan.exemptions import exempted

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}  # llama.py:475


@functools.cache
def small(name: str) -> tuple[tuple[Module, ...], dict]:
    """A model of that shape with twelve blocks and four experts."""
    config = json.loads((ROOT / f"data/architectures/{name}.json").read_text())
    for part in (config, config.get("text_config", {}), config.get("thinker_config", {}).get("text_config", {})):
        part |= {
            k: v for k, v in {"num_hidden_layers": 12, "num_experts": 4, "num_local_experts": 4}.items() if k in part
        }
        part.pop("layer_types", None)
    return tuple(modules.from_tensors(architectures.tensors(config), config)), config


def skipped(prefix: str, entries: list[str]) -> bool:
    """is_layer_skipped in exact mode (quantization/utils/quant_utils.py), line by line."""
    leaf = prefix.split(".")[-1]
    if leaf in FUSED and prefix in entries:
        return True
    if leaf in FUSED:
        found = [prefix.replace(leaf, shard) in entries for shard in FUSED[leaf]]
        if len(set(found)) > 1:
            raise ValueError("some but not all shards")
        return found[0]
    if "experts" in prefix:
        return any(prefix in entry for entry in entries if "experts" in entry)
    return prefix in entries


def modelopt(prefix: str, entries: list[str]) -> bool:
    """apply_vllm_mapper's splitting, then is_layer_excluded (quantization/modelopt.py)."""
    split = []
    for entry in entries:
        split += (
            [entry[:-1], entry[:-1] + ".*"] if len(entry) > 1 and entry[-1] == "*" and entry[-2] != "." else [entry]
        )
    if not split:
        return False
    if skipped(prefix, split):
        return True
    if any(entry != prefix and entry in prefix for entry in split):
        return True
    return any(fnmatch(prefix, entry) for entry in split)


def compressed_tensors(prefix: str, entries: list[str]) -> bool:
    """should_ignore_layer with find_matching_patterns (quantization/utils/config_utils.py)."""

    def match(name: str) -> bool:
        return any(bool(re.match(e[3:], name)) if e.startswith("re:") else e == name for e in entries)

    if match(prefix):
        return True
    leaf = prefix.split(".")[-1]
    shards = [prefix.replace(leaf, shard) for shard in FUSED.get(leaf, [])]
    found = [match(shard) for shard in shards]
    if any(found) and not all(found):
        raise ValueError("different schemes for the shards")
    return bool(found) and all(found)


def awq(prefix: str, entries: list[str]) -> bool:
    """is_layer_skipped in substring mode."""
    leaf = prefix.split(".")[-1]
    if leaf in FUSED and any(entry in prefix for entry in entries):
        return True
    if leaf in FUSED:
        found = [any(e in prefix.replace(leaf, shard) for e in entries) for shard in FUSED[leaf]]
        if len(set(found)) > 1:
            raise ValueError("some but not all shards")
        return found[0]
    return any(entry in prefix for entry in entries)


MATCHERS = {"modelopt": modelopt, "compressed-tensors": compressed_tensors, "awq": awq}
KEY = {"modelopt": "ignore", "compressed-tensors": "ignore", "awq": "modules_to_not_convert"}


def reference(method: str, tree: tuple[Module, ...], entries: list[str]) -> set[str] | None:
    """What vLLM leaves plain; none where it refuses."""
    try:
        return {m.name for m in tree if m.linear and m.fused and MATCHERS[method](m.fused, entries)}
    except ValueError:
        return None


def ours(method: str, tree: tuple[Module, ...], config: dict, entries: list[str]) -> set[str] | None:
    try:
        return ignore_list.left_plain(
            {"quant_method": method, KEY[method]: entries}, tree, config, {m.name for m in tree}
        )
    except ValueError:
        return None


NAMES = [m.name for m in small("llama3_1_8b")[0] if m.linear]
PREFIXES = [f"model.layers.{n}" for n in range(12)]
ENTRIES = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES).map(lambda name: name.replace("q_proj", "qkv_proj").replace("up_proj", "gate_up_proj")),
    st.sampled_from(PREFIXES).flatmap(lambda p: st.sampled_from([p, f"{p}*", f"{p}.*", f"{p}.mlp*", f"re:{p}.*"])),
    st.sampled_from(
        ["lm_head", "*.q_proj", "*o_proj", "re:.*down_proj", r"re:model\.layers\.1\.", "mlp.gate", "*.mlp.gate"]
    ),
)


@pytest.mark.parametrize("method", MATCHERS)
@given(entries=st.lists(ENTRIES, max_size=6))
def test_any_list_is_read_as_vllm_reads_it(method: str, entries: list[str]) -> None:
    tree, config = small("llama3_1_8b")
    assert ours(method, tree, config, entries) == reference(method, tree, entries)


@pytest.mark.parametrize("method", MATCHERS)
@given(data=st.data())
def test_what_the_linter_accepts_is_left_plain_and_nothing_else(method: str, data: st.DataObject) -> None:
    """Exact names, as qforge writes them: block 1 is not blocks 10 and 11; what splits a fused matrix, vLLM refuses."""
    tree, config = small("llama3_1_8b")
    blocks = data.draw(st.sets(st.integers(0, 11), max_size=3))
    names = data.draw(st.sets(st.sampled_from(NAMES), max_size=3))
    rules = {f"b{n}": Rule([f"block:{n}"], "") for n in blocks} | {
        f"n{i}": Rule([n], "") for i, n in enumerate(sorted(names))
    }
    wanted = {m.name for m in tree if m.linear and (m.block in blocks or m.name in names)}
    groups = [{m.name for m in tree if m.fused == fused} for fused in {m.fused for m in tree if m.linear}]
    if any(group & wanted and not group <= wanted for group in groups):
        with pytest.raises(ValueError, match="exempt all of them or none"):
            exempted(tree, rules, tied=False)
        assert reference(method, tree, sorted(wanted)) is None
        return
    exempted(tree, rules, tied=False)
    assert reference(method, tree, sorted({"lm_head", *wanted})) == wanted
    assert ours(method, tree, config, sorted({"lm_head", *wanted})) == wanted


def test_modelopts_own_wildcard_for_a_block_catches_ten_to_nineteen() -> None:
    tree, config = small("llama3_1_8b")
    plain = ours("modelopt", tree, config, ["model.layers.1*"])
    assert plain is not None
    assert {m.block for m in tree if m.name in plain} == {1, 10, 11}


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_without_a_list_the_tensors_say_it(method: str) -> None:
    tree, config = small("llama3_1_8b")
    plain = {m.name for m in tree if m.block == 1}
    packed = {m.name for m in tree} - plain
    assert ignore_list.left_plain({"quant_method": method}, tree, config, packed) == plain & set(NAMES)
    with pytest.raises(ValueError, match="some but not all parts of"):
        ignore_list.left_plain({"quant_method": method}, tree, config, packed - {"model.layers.0.self_attn.q_proj"})


def test_a_rule_of_gptqmodel_leaves_what_it_matches_and_fits_fused_names_only() -> None:
    tree, config = small("llama3_1_8b")
    rules = {r"-:model\.layers\.1": {}, r"-:.*\.q_proj": {}, r"+:.*o_proj": {"bits": 8}}
    packed = {m.name for m in tree}
    plain = ignore_list.left_plain({"quant_method": "gptq", "dynamic": rules}, tree, config, packed)
    assert {m.block for m in tree if m.name in plain} == {1, 10, 11}


def test_a_block_that_is_left_out_of_nf4_takes_ten_and_eleven_along() -> None:
    """transformers takes an entry as the beginning of a pattern; qforge writes whole names."""
    tree, config = small("llama3_1_8b")
    quantization = {"quant_method": "bitsandbytes", "llm_int8_skip_modules": ["lm_head", "model.layers.1"]}
    plain = ignore_list.left_plain(quantization, tree, config, {m.name for m in tree})
    assert {m.block for m in tree if m.name in plain} == {1, 10, 11}
    quantization["llm_int8_skip_modules"] = ["q_proj"]
    with pytest.raises(ValueError, match="some but not all parts of"):
        ignore_list.left_plain(quantization, tree, config, set())


def test_a_router_entry_catches_gate_up_of_a_dense_model() -> None:
    tree, config = small("llama3_1_8b")
    plain = ours("modelopt", tree, config, ["model.layers.0.mlp.gate"])
    assert plain == {"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"}


def test_one_listed_expert_is_all_experts_of_the_layer_to_modelopts_reader() -> None:
    tree, config = small("qwen3_30b_a3b")
    plain = ours("modelopt", tree, config, ["model.layers.0.mlp.experts.0.down_proj"])
    assert plain == {m.name for m in tree if m.block == 0 and m.kind == "expert"}


@pytest.mark.parametrize("name", ["gemma3_4b", "qwen2_5_vl_7b", "qwen3_omni_30b"])
@pytest.mark.parametrize("method", MATCHERS)
def test_names_of_the_checkpoint_are_mapped_to_vllms(name: str, method: str) -> None:
    tree, config = small(name)
    # AWQ's reader looks for parts of the experts module's own name, so the names of single experts say nothing to it
    wanted = {m.name for m in tree if m.linear and m.block == 1 and not (method == "awq" and m.kind == "expert")}
    others = {m.name for m in tree if m.kept and m.kind not in ("talker", "code2wav", "embedding")}
    assert ours(method, tree, config, sorted(wanted | others)) == wanted
