"""Half a model is refused in the plan, with what is missing; a whole one of any architecture is not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import DENSE, MOE, checkpoint, tiny_job
from support.command import ROOT

from qforge.models import architectures
from qforge.models.checkpoint import Stored, Tensor, headers
from qforge.models.completeness import refuse, strangers
from qforge.plan import plan

OTHER = {**DENSE, "model_type": "other", "num_hidden_layers": 5}  # an architecture that nobody knows


def tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    return architectures.tensors({**config, "model_type": "llama"} if config["model_type"] == "other" else config)


@pytest.mark.parametrize("config", [DENSE, MOE, OTHER], ids=["llama", "qwen3_moe", "other"])
def test_a_whole_model_is_not_refused(config: dict[str, Any]) -> None:
    refuse("x", tensors(config), config)


@pytest.mark.parametrize("file", sorted((ROOT / "data/architectures").glob("*.json")), ids=lambda file: file.stem)
def test_no_committed_architecture_is_refused(file: Path) -> None:
    config = json.loads(file.read_text())
    refuse("x", architectures.tensors(config), config)


UP = "model.layers.1.mlp.up_proj.weight"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.mark.parametrize(
    ("config", "lost", "words"),
    [
        (DENSE, UP, rf"{UP} is missing from the checkpoint; fetch or save the model again"),
        (OTHER, UP, rf"{UP} is missing: 4 blocks of the same kind have it"),
        (MOE, EXPERT, rf"{EXPERT} is missing from the checkpoint"),
        (DENSE, "model.layers.1.", r"model\.layers\.1 is missing: config\.json says num_hidden_layers=2"),
        (OTHER, "model.layers.0.", r"model\.layers\.0 is missing: config\.json says num_hidden_layers=5"),
        (DENSE, "model.norm.weight", r"model\.norm\.weight is missing from the checkpoint"),
        (DENSE, "lm_head", r"lm_head\.weight is missing, and config\.json says that it is not the embedding"),
        (OTHER, "lm_head", r"lm_head\.weight is missing, and config\.json says that it is not the embedding"),
    ],
)
def test_what_is_missing_is_named(config: dict[str, Any], lost: str, words: str) -> None:
    have = {name: tensor for name, tensor in tensors(config).items() if not name.startswith(lost)}
    with pytest.raises(ValueError, match=rf"model=x: {words}"):
        refuse("x", have, config)


@pytest.mark.parametrize(
    ("config", "says", "words"),
    [
        (DENSE, {"num_hidden_layers": 1}, r"model\.layers\.1 is in the checkpoint, and config\.json says num_hidden_layers=1"),
        (OTHER, {"num_hidden_layers": 6}, r"model\.layers\.5 is missing: config\.json says num_hidden_layers=6"),
        (DENSE, {"vocab_size": 500}, r"model\.embed_tokens\.weight has 49152 rows, and config\.json says vocab_size=500"),
        (OTHER, {"vocab_size": 500}, r"model\.embed_tokens\.weight has 49152 rows, and config\.json says vocab_size=500"),
        (DENSE, {"num_key_value_heads": 4}, r"[kv]_proj\.weight has the shape \[128, 256\], and config\.json gives \[256, "),
        (DENSE, {"intermediate_size": 256}, r"_proj\.weight has the shape \[.*512.*\], and config\.json gives \[.*256.*\]"),
        (MOE, {"num_experts": 5}, r"mlp\.experts\.4\.\w+\.weight and 5 more are missing"),
    ],
)  # fmt: skip
def test_a_config_of_another_model_is_refused(config: dict[str, Any], says: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        refuse("x", tensors(config), {**config, **says})


@pytest.mark.parametrize(
    ("renamed", "words"),
    [
        (lambda name: f"_orig_mod.{name}", r"_orig_mod\.model\.\S+ has a name that a wrapper of training gave it"),
        (lambda name: f"module.{name}", "has a name that a wrapper of training gave it"),
        (lambda name: f"base_model.model.{name}", "has a name that a wrapper of training gave it"),
        (lambda name: name.replace("layers.", "layers._fsdp_wrapped_module."), "save the model that is inside"),
        (lambda name: name.replace("q_proj.", "q_proj.base_layer."), r"q_proj\.base_layer\.weight is of an adapter"),
    ],
)
@pytest.mark.parametrize("config", [DENSE, OTHER], ids=["llama", "other"])
def test_names_of_training_are_refused(config: dict[str, Any], renamed: Callable[[str], str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        refuse("x", {renamed(name): tensor for name, tensor in tensors(config).items()}, config)


def _fused(have: dict[str, Tensor], whole: str, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """The same blocks with some matrices joined along their outputs."""
    kept = {name: tensor for name, tensor in have.items() if not any(f".{part}." in name for part in parts)}
    for name in [name for name in have if f".{parts[0]}.weight" in name]:
        found = [have[name.replace(parts[0], part)] for part in parts]
        rows, columns = sum(tensor.shape[0] for tensor in found), found[0].shape[1]
        kept[name.replace(parts[0], whole)] = Tensor("BF16", (rows, columns))
    return kept


@pytest.mark.parametrize(
    ("config", "change", "named", "meant"),
    [
        (DENSE, lambda t: _fused(t, "qkv_proj", ("q_proj", "k_proj", "v_proj")), "self_attn.qkv_proj", "self_attn.q_proj"),
        (DENSE, lambda t: _fused(t, "gate_up_proj", ("gate_proj", "up_proj")), "mlp.gate_up_proj", "mlp.gate_proj"),
        (MOE, lambda t: _fused(t, "W_pack", ("q_proj", "k_proj", "v_proj")), "self_attn.W_pack", "self_attn.q_proj"),
        (DENSE, lambda t: {n.replace("o_proj", "dense"): v for n, v in t.items()}, "self_attn.dense", "self_attn.o_proj"),
        (MOE, lambda t: {n.replace("up_proj", "w3"): v for n, v in t.items()}, "mlp.experts.0.w3", "mlp.experts.0.up_proj"),
        (DENSE, lambda t: {n.removeprefix("model."): v for n, v in t.items()}, "input_layernorm", "input_layernorm"),
    ],
)  # fmt: skip
def test_a_name_that_the_class_does_not_know_is_refused(
    config: dict[str, Any], change: Callable[[dict[str, Tensor]], dict[str, Tensor]], named: str, meant: str
) -> None:
    kind = config["model_type"]
    with pytest.raises(
        ValueError, match=rf"layers\.0\.{named}\.weight is no name of a {kind}, .* model\.layers\.0\.{meant}\."
    ):
        refuse("x", change(tensors(config)), config)


def test_other_names_that_engines_map_are_no_fault() -> None:
    """Qwen2.5-VL as published and as transformers 5 saves it; the experts of a layer in one tensor."""
    config = json.loads((ROOT / "data/architectures/qwen2_5_vl_7b.json").read_text())
    refuse("x", {re.sub("^model\\.", "model.language_model.", n): v for n, v in tensors(config).items()}, config)
    stacked = {name: tensor for name, tensor in tensors(MOE).items() if ".experts." not in name}
    for block in range(2):
        stacked |= {
            f"model.layers.{block}.mlp.experts.{leaf}": Tensor("BF16", (4, 8, 8))
            for leaf in ("gate_up_proj", "down_proj")
        }
    refuse("x", stacked, MOE)
    drafting = {"model.mtp.layers.0.self_attn.q_proj.weight": Tensor("BF16", (8, 8)), **tensors(DENSE)}
    refuse("x", drafting, DENSE)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight is missing from the checkpoint"):
        refuse("x", {name: tensor for name, tensor in drafting.items() if ".layers.0.self_attn.q" not in name}, DENSE)


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_an_expert_that_no_layer_has_is_missing(key: str) -> None:
    """Of an architecture that nobody knows, too: blocks that lack the same are alike."""
    config = {
        key: 4,
        "model_type": "other",
        "num_hidden_layers": 2,
        "vocab_size": MOE["vocab_size"],
        "tie_word_embeddings": True,
    }
    refuse("x", tensors(MOE), config)
    less = {name: tensor for name, tensor in tensors(MOE).items() if ".experts.3." not in name}
    with pytest.raises(
        ValueError, match=r"mlp\.experts\.3 is missing: config\.json says that there are 4 experts; fetch"
    ):
        refuse("x", less, config)


def test_an_adapter_of_the_models_own_is_no_fault() -> None:
    """Phi-4 multimodal has two, which its config.json describes."""
    have = {name.replace("q_proj.", "q_proj.base_layer."): tensor for name, tensor in tensors(OTHER).items()}
    refuse("x", have, {**OTHER, "speech_lora": {"r": 320}})


@pytest.mark.parametrize("shape", [(128,), (1, 256), (256, 1)])
def test_a_tensor_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"model\.norm\.weight has the shape \[.*\], and config\.json gives \[256\]"):
        refuse("x", {**tensors(DENSE), "model.norm.weight": Tensor("BF16", shape)}, DENSE)


def test_tensors_without_a_place_are_said() -> None:
    more = {
        "ema.model.norm.weight": Tensor("BF16", (256,)),
        "model.layers.0.self_attn.q_proj.bias": Tensor("BF16", (256,)),
    }
    assert strangers({**tensors(DENSE), **more}, DENSE) == list(more)
    assert strangers({**tensors(DENSE), "mtp.fc.weight": Tensor("BF16", (1, 1))}, DENSE) == []
    assert strangers({**tensors(OTHER), **more}, OTHER) == []  # nobody knows what it has
    less = {name: tensor for name, tensor in tensors(MOE).items() if "experts" not in name}
    assert strangers({**less, **more}, MOE) == []  # its experts may be spelled otherwise, and so may others


def test_a_head_that_nobody_speaks_of_is_the_embedding_where_the_class_says_so() -> None:
    silent = {key: value for key, value in OTHER.items() if key != "tie_word_embeddings"}
    have = {name: tensor for name, tensor in tensors(OTHER).items() if name != "lm_head.weight"}
    refuse("x", have, silent)  # an unknown class may tie
    with pytest.raises(ValueError, match=r"lm_head\.weight is missing"):
        refuse("x", have, {**silent, "model_type": "llama"})


def test_two_stacks_that_are_alike_are_not_counted() -> None:
    """HRM: two modules of layers, which take turns; num_hidden_layers is neither's."""
    both = {
        name.replace("model.", f"model.{part}_module.", 1): t for part in "HL" for name, t in tensors(OTHER).items()
    }
    refuse("x", both, {**OTHER, "num_hidden_layers": 16})


def test_kinds_of_blocks_and_layers_for_drafting_are_no_fault() -> None:
    plain = tensors(OTHER)
    mixed = {name: t for name, t in plain.items() if ".layers.2.self_attn.v_proj" not in name}
    refuse("x", mixed, {**OTHER, "layer_types": ["a", "a", "b", "a", "a"]})
    refuse("x", mixed, {**OTHER, "block_configs": []})
    draft = {**plain, "model.layers.5.eh_proj.weight": Tensor("BF16", (256, 512))}
    refuse("x", draft, OTHER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama with a head of its own."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    return checkpoint(tmp_path / "model", DENSE, tmp_path, files=1)


def test_a_plan_refuses_plain_weights_that_are_said_to_be_packed(folder: Path) -> None:
    (folder / "hf_quant_config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"it has a (hf_quant_config\.json|quantization_config), and its weights are plain"
    ):
        plan.make(tiny_job(folder, "method=rtn"), folder)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (
            {"num_hidden_layers": 2.0},
            r"num_hidden_layers in its config\.json is 2\.0; a whole number above 0 belongs there",
        ),
        ({"num_hidden_layers": "2"}, "num_hidden_layers in its config.json is '2'"),
        ({"hidden_size": None}, "hidden_size in its config.json is None"),
        ({"num_attention_heads": 0}, "num_attention_heads in its config.json is 0"),
        ({"intermediate_size": [512]}, r"intermediate_size in its config\.json is \[512\]"),
        ({"model_type": None}, "its config.json lacks model_type, by which loaders find its class; add it"),
    ],
)
def test_a_config_with_values_of_another_kind_is_refused(folder: Path, says: dict[str, Any], words: str) -> None:
    (folder / "config.json").write_text(json.dumps({**DENSE, **says}))
    with pytest.raises(ValueError, match=words):
        plan.make(tiny_job(folder, "method=rtn", "exempt=none"), folder)


def test_two_heads_that_differ_are_said(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**DENSE, "tie_word_embeddings": True}))
    said = plan.make(tiny_job(folder, "method=rtn", "exempt=none"), folder).notes
    assert any(
        "lm_head.weight is not the embedding, though config.json says tie_word_embeddings=true" in n for n in said
    )
    same = shutil.copytree(folder, tmp_path / "same")
    head, embedding = (headers(same)[name] for name in ("lm_head.weight", "model.embed_tokens.weight"))
    _copy(embedding, head)
    assert not any(
        "lm_head.weight" in note for note in plan.make(tiny_job(same, "method=rtn", "exempt=none"), same).notes
    )


def _copy(source: Stored, target: Stored) -> None:
    with source.file.open("rb") as reading, target.file.open("r+b") as writing:
        reading.seek(source.offset)
        writing.seek(target.offset)
        writing.write(reading.read(source.nbytes))
