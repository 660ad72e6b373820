"""What transformers says of models that have no file here, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import in_quant
from support.command import ROOT
from support.jobs import job

from qforge.inspect.ignore_list import left_plain
from qforge.models import modules, structure, vllm_names
from qforge.models.checkpoint import Tensor
from qforge.models.modules import Module
from qforge.models.structure import Matrix, Structure
from qforge.plan.libraries import refuse_architecture

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "vocab_size": 128, "head_dim": 16}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
          "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "layer_types": ["mamba", "attention"]}
ASKED: dict[str, dict[str, Any]] = {
    "qwen3_next": {**SMALL, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 32},
    "granitemoehybrid": {**SMALL, **EXPERTS, **MAMBA, "shared_intermediate_size": 32},
    "llama4_text": {**SMALL, "num_local_experts": 4, "intermediate_size_mlp": 96, "interleave_moe_layer_step": 1},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 32},
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128},
    "aria_text": {**SMALL, "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "falcon_mamba": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128, "state_size": 16},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    script = ROOT / "tests" / "support" / "structures.py"
    done = in_quant(script, tmp_path_factory.mktemp("structures"), json.dumps(ASKED))
    answer: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def tree(said: dict[str, Any], kind: str) -> dict[str, Module]:
    matrices = {n: Matrix(**{**m, "leaves": tuple(m.get("leaves", ()))}) for n, m in said["matrices"].items()}
    tensors = {name: Tensor("BF16", tuple(shape)) for name, shape in said["tensors"].items()}
    config = {"model_type": kind, "architectures": [said["built"]], **said["config"]}
    return {m.name: m for m in modules.from_tensors(tensors, config, Structure("", said["built"], "", {}, matrices))}


KINDS = {
    "qwen3_next": {
        "model.layers.0.linear_attn.in_proj_qkvz": "mixer",
        "model.layers.0.linear_attn.in_proj_ba": "gate",
        "model.layers.0.linear_attn.conv1d": "convolution",
        "model.layers.1.self_attn.q_proj": "attention",
        "model.layers.1.mlp.experts.3.down_proj": "expert",
        "model.layers.1.mlp.shared_expert.up_proj": "shared_expert",
        "model.layers.1.mlp.gate": "router",
        "model.layers.1.mlp.shared_expert_gate": "router",
        "lm_head": "head",
    },
    "granitemoehybrid": {
        "model.layers.0.mamba.in_proj": "mixer",
        "model.layers.1.self_attn.k_proj": "attention",
        "model.layers.1.block_sparse_moe.input_linear": "expert",
        "model.layers.1.block_sparse_moe.router.layer": "router",
        "model.layers.1.shared_mlp.output_linear": "shared_expert",
    },
    "llama4_text": {
        "model.layers.1.feed_forward.experts.gate_up_proj": "expert",
        "model.layers.1.feed_forward.router": "router",
        "model.layers.1.feed_forward.shared_expert.gate_proj": "shared_expert",
    },
    "gpt2": {"transformer.h.1.attn.c_attn": "attention", "transformer.h.1.mlp.c_fc": "mlp", "transformer.wpe": "embedding"},
    "falcon_mamba": {"backbone.layers.0.mixer.in_proj": "state_space", "backbone.embeddings": "embedding"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_part_of_a_matrix_is_that_of_the_class_that_holds_it(found: dict[str, Any], kind: str) -> None:
    modules = tree(found[kind], kind)
    assert {name: modules[name].kind for name in KINDS[kind]} == KINDS[kind]
    assert not [name for name, module in modules.items() if module.kind == "unknown"]


def test_experts_in_one_tensor_and_turned_matrices(found: dict[str, Any]) -> None:
    granite, llama = (tree(found[kind], kind) for kind in ("granitemoehybrid", "llama4_text"))
    ours = granite["model.layers.1.block_sparse_moe.input_linear"]
    assert (ours.stack, ours.transposed, ours.alternate) == (4, False, False)
    assert ours.matrices[1] == ("model.layers.1.block_sparse_moe.experts.0.up_proj", 96, 64)
    theirs = llama["model.layers.1.feed_forward.experts.gate_up_proj"]
    assert (theirs.stack, theirs.transposed, theirs.alternate) == (4, True, False)
    assert theirs.matrices[-1] == ("model.layers.1.feed_forward.experts.3.up_proj", 96, 64)
    turned = tree(found["gpt2"], "gpt2")["transformer.h.1.mlp.c_fc"]
    assert (turned.transposed, turned.out_features, turned.in_features) == (True, 256, 64)
    assert turned.block == 1


@pytest.mark.parametrize(
    ("kind", "held"),
    [("gpt2", "Conv1D"), ("falcon", "FalconLinear"), ("aria_text", "AriaGroupedExpertsGemm"), ("qwen3_next", "")],
)
def test_what_a_library_may_not_know_by_its_class_is_refused_where_the_library_loads_classes(
    found: dict[str, dict[str, Any]], kind: str, held: str
) -> None:
    matrices = list(tree(found[kind], kind).values())
    assert {m.own_class for m in matrices if m.linear} - {""} == ({held} if held else set())
    refuse_architecture(job("method=rtn"), {"model_type": kind}, matrices, [])  # a stream reads tensors
    if held:
        with pytest.raises(
            ValueError, match=f"common interface, and .* is a {held}; use method=rtn, fp8 or nvfp4_llmc"
        ):
            refuse_architecture(job("method=gptq"), {"model_type": kind}, matrices, [])
    else:
        refuse_architecture(job("method=gptq"), {"model_type": kind}, matrices, [])


def test_numbers_have_the_commonest_names(found: dict[str, Any]) -> None:
    gpt2 = found["gpt2"]["config"]
    assert (gpt2["num_hidden_layers"], gpt2["num_attention_heads"], gpt2["hidden_size"]) == (2, 4, 64)
    assert found["falcon_mamba"]["config"].get("num_attention_heads") is None


def test_what_vllm_computes_as_one_stays_in_bf16_as_one() -> None:
    """Qwen3.5's in_proj_qkv and in_proj_z are one matrix in vLLM: where one of them is not known, neither is quantized."""
    config = {"model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"], "num_hidden_layers": 1}
    at = "model.layers.0.linear_attn."
    names = {f"{at}in_proj_qkv.weight": Matrix("mixer", ""), f"{at}in_proj_z.weight": Matrix("mixer", "")}
    tensors = {name: Tensor("BF16", (64, 64)) for name in names}
    known = modules.from_tensors(tensors, config, Structure("", "Qwen3_5ForCausalLM", matrices=names))
    assert {m.fused for m in known} == {f"{at}in_proj_qkvz"}
    assert {m.kind for m in known} == {"mixer"}
    half = Structure("", "Qwen3_5ForCausalLM", matrices={f"{at}in_proj_qkv.weight": names[f"{at}in_proj_qkv.weight"]})
    assert {m.kind for m in modules.from_tensors(tensors, config, half)} == {"unknown"}


def test_what_vllm_rearranges_while_it_loads_stays_in_bf16() -> None:
    config = {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "n_layer": 1}
    name = "transformer.h.0.self_attention.query_key_value.weight"
    known = Structure("", "BloomForCausalLM", matrices={name: Matrix("attention", "")})
    (found,) = modules.from_tensors({name: Tensor("BF16", (192, 64))}, config, known)
    assert (found.kind, found.block) == ("reshaped", 0)


def test_vllm_says_which_classes_it_has() -> None:
    assert vllm_names.known({"architectures": ["Qwen3NextForCausalLM"]})
    assert vllm_names.known({"architectures": ["NobodysForCausalLM"]}) is None
    of = vllm_names.names({"model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"]})
    assert of("backbone.layers.0.mixer.q_proj") == ("model.layers.0.mixer.q_proj", "model.layers.0.mixer.qkv_proj")


@pytest.mark.parametrize(
    ("name", "own", "asked"),
    [
        ("FalconH1ForCausalLM", "mamba.in_proj", "model.3.mixer.in_proj"),
        ("FalconH1ForCausalLM", "self_attn.o_proj", "model.layers.1.o_proj"),
        ("GraniteMoeHybridForCausalLM", "mamba.in_proj", "model.layers.1.mixer.in_proj"),
    ],
)
def test_a_matrix_is_left_alone_by_the_name_that_vllm_asks_for(name: str, own: str, asked: str) -> None:
    """Ran: with the checkpoint's name alone vLLM 0.32 looks for packed weights."""
    config = {"model_type": "x", "architectures": [name], "num_hidden_layers": 2}
    tensors = {f"model.layers.1.{leaf}.weight": Tensor("BF16", (64, 64)) for leaf in (own, "mlp.up_proj")}
    known = Structure("", name, matrices={next(iter(tensors)): Matrix("mixer", "")})
    mlp, mixer = sorted(modules.from_tensors(tensors, config, known), key=lambda m: len(m.names))
    assert (mixer.served, mixer.fused, mixer.names) == (asked, asked, [f"model.layers.1.{own}", asked])
    assert mlp.names == ["model.layers.1.mlp.up_proj"]
    packed = {"quant_method": "compressed-tensors", "ignore": mixer.names}
    assert left_plain(packed, [mixer, mlp], config, {mlp.name}) == {mixer.name}
    assert left_plain({**packed, "ignore": mixer.names[:1]}, [mixer, mlp], config, {mlp.name}) == set()


def test_a_structure_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    entry = {"kind": "expert", "module": "m.N.experts", "transposed": True, "leaves": ["gate_proj", "up_proj"]}
    written = {"library": "transformers 5", "built": "XForCausalLM", "config": {}, "matrices": {"m.N.experts.w": entry},
               "tensors": {"m.0.experts.w": ["F32", [2, 4, 8]]}}  # fmt: skip
    file.write_text(json.dumps(written))
    read = structure.read(file)
    assert read.matrix("m.7.experts.w") == Matrix("expert", "m.N.experts", True, ("gate_proj", "up_proj"))
    assert read.tensors == {"m.0.experts.w": Tensor("F32", (2, 4, 8))}
    assert read.matrix("other") is None
