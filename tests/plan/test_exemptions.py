"""Which modules a rule hits, and which rules are refused."""

from __future__ import annotations

import functools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import tree
from support.command import ROOT

from qforge.config.job import Rule
from qforge.models import architectures
from qforge.plan.exemptions import exempted


@functools.cache
def hit(name: str, *patterns: str, tied: bool = False) -> set[str]:
    return set(exempted(tree(name), {"rule": Rule(list(patterns), "because")}, tied)["rule"].modules)


def test_parameter_counts_are_the_published_ones() -> None:
    published = {"llama3_1_8b": 8.03e9, "qwen3_8b": 8.19e9, "qwen3_30b_a3b": 30.53e9, "gemma3_270m": 268e6}
    for name, count in published.items():
        config = json.loads((ROOT / f"data/architectures/{name}.json").read_text())
        found = sum(t.count for t in architectures.tensors(config).values())
        assert found == pytest.approx(count, rel=0.002), name


def test_block_one_is_not_blocks_ten_to_nineteen() -> None:
    blocks = {int(re.search(r"layers\.(\d+)\.", n)[1]) for n in hit("llama3_1_8b", "block:1")}
    assert blocks == {1}


def test_first_and_last_block_and_their_leaves() -> None:
    assert hit("llama3_1_8b", "block:first/o_proj", "block:last/down_proj") == {
        "model.layers.0.self_attn.o_proj",
        "model.layers.31.mlp.down_proj",
    }


def test_the_head_of_a_tied_model_is_its_embedding() -> None:
    assert hit("smollm2_135m", "role:lm_head", tied=True) == {"model.embed_tokens"}
    assert hit("llama3_1_8b", "role:lm_head") == {"lm_head"}


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        ("llama3_1_8b", "re:.*q_proj", "k_proj.*as one matrix in one precision, so exempt all of them or none"),
        ("llama3_1_8b", "model.layers.3.mlp.gate_proj", "but not model.layers.3.mlp.up_proj"),
        ("qwen3_30b_a3b", r"re:.*layers\.0\.mlp\.experts\.5\..*", "exempts 3 of the 384 expert matrices"),
        (
            "llama3_1_8b",
            "model.layers.99.mlp.down_proj",
            "matches no module of this model; use a name, re:, role: or block:",
        ),
        ("llama3_1_8b", "role:router", "matches no module of this model"),
        ("llama3_1_8b", "block:middle", "matches no module of this model"),
        ("llama3_1_8b", "model.layers.1*", "a glob is no rule: use re: and a regular expression"),
        (
            "llama3_1_8b",
            "re:model.layers.1.*",
            r"matches not only block 1 but also 10, 11, 12 and 7 more; use layers",
        ),
        ("llama3_1_8b", "re:(", "is not a regular expression"),
        (
            "qwen3_omni_30b",
            r"re:thinker\.model\.layers\.0\.mlp\.experts\.[0-9]\..*",
            "exempts 30 of the 384 expert matrices",
        ),
        ("gpt_oss_20b", "model.layers.0.mlp.experts.down_proj", "exempts 1 of the 2 expert matrices"),
    ],
)
def test_rules_that_make_garbage_are_refused(name: str, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hit(name, pattern)


@pytest.mark.parametrize(
    "pattern", [r"re:.*layers\.1\..*", r"re:.*layers\.1?\d\..*", r"re:.*layers\.(1|10)\..*", r"re:.*layers\.1\d\..*"]
)
def test_patterns_that_mean_what_they_catch_are_accepted(pattern: str) -> None:
    assert hit("llama3_1_8b", pattern)


def test_a_rule_says_what_it_hits_and_what_it_changes() -> None:
    rules = {
        "head": Rule(["role:lm_head"], "w"),
        "first": Rule(["block:first"], "w"),
        "again": Rule(["block:0/o_proj"], "w"),
    }
    found = exempted(tree("llama3_1_8b"), rules, tied=False)
    assert (found["head"].modules, found["head"].changes) == (["lm_head"], [])  # never quantized anyway
    assert len(found["first"].modules) == len(found["first"].changes) == 7
    assert found["again"].modules == ["model.layers.0.self_attn.o_proj"]
    assert found["again"].changes == []  # the rule before has it


def test_no_method_quantizes_routers_or_towers() -> None:
    kinds = {
        m.kind
        for name in ("qwen3_omni_30b", "qwen3_30b_a3b", "gemma3_4b", "deepseek_v3")
        for m in tree(name)
        if m.linear
    }
    assert kinds == {"attention", "mlp", "expert", "shared_expert"}


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="model_type='mamba' is not known; known architectures: llama"):
        architectures.tensors({"model_type": "mamba"})


@given(st.sets(st.sampled_from([m.name for m in tree("smollm2_135m") if m.linear]), max_size=12))
def test_a_set_of_names_is_accepted_exactly_if_it_splits_nothing_that_vllm_fuses(names: set[str]) -> None:
    groups: dict[str, set[str]] = {}
    for module in tree("smollm2_135m"):
        parent, _, leaf = module.name.rpartition(".")
        fused = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
        groups.setdefault(f"{parent}.{fused.get(leaf, leaf)}", set()).add(module.name)
    whole = all(members <= names or not members & names for members in groups.values())
    rules = {f"r{i}": Rule([name], "") for i, name in enumerate(sorted(names))}
    if whole:
        found = exempted(tree("smollm2_135m"), rules, tied=True)
        assert {name for hits in found.values() for name in hits.modules} == names
    else:
        with pytest.raises(ValueError, match="exempt all of them or none"):
            exempted(tree("smollm2_135m"), rules, tied=True)
