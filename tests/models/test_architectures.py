"""What qforge says of an architecture, against what was published and against transformers."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT

from qforge.envs import managed
from qforge.json_files import read_json
from qforge.models import architectures, modules
from qforge.models.checkpoint import Tensor, headers
from qforge.models.modules import Module

SHIPPED = sorted(file.stem for file in (ROOT / "data/architectures").glob("*.json"))

# One small number for every key that is a size: the same kind of model, a few hundred kilobytes of it.
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    "q_lora_rank": 40, "kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 20,
    "depth": 2, "num_heads": 8, "out_hidden_size": 64, "num_position_embeddings": 16, "image_size": 56,
    "encoder_layers": 2, "encoder_attention_heads": 8, "encoder_ffn_dim": 80, "d_model": 72, "output_dim": 64,
    "downsample_hidden_size": 12, "thinker_hidden_size": 64, "num_code_groups": 4, "codebook_size": 32, "decoder_dim": 32,
}  # fmt: skip


@functools.cache
def config(name: str) -> dict[str, Any]:
    return read_json(ROOT / f"data/architectures/{name}.json")


@functools.cache
def tree(name: str) -> dict[str, Module]:
    return {m.name: m for m in modules.from_tensors(architectures.tensors(config(name)), config(name))}


def small(part: dict[str, Any]) -> dict[str, Any]:
    shrunk = {key: small(value) if isinstance(value, dict) else SMALL.get(key, value) for key, value in part.items()}
    return {key: value[:2] if key == "layer_types" else value for key, value in shrunk.items()}


def write(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint of zeros that has exactly the tensors qforge expects."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
    tensors, header, end = architectures.tensors(config), {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return tensors


# The parameter counts of the checkpoints on the hub (safetensors headers), as public sources repeat them:
# mteb's model metadata (Qwen3-Omni, Qwen2.5-VL), keras-hub's presets (Qwen3-30B, Gemma 3), GGUF headers (Phi-4),
# the gpt-oss model card (116.83B and 20.91B), the Mixtral paper (46.7B), the DeepSeek-V3 report (671B without MTP),
# the Qwen3 report (235B), and audits of Kimi-K2's headers.
PUBLISHED = {
    "llama3_1_8b": 8_030_261_248,
    "llama3_1_70b": 70_553_706_496,
    "mixtral_8x7b": 46.7e9,
    "gemma3_270m": 268_098_176,
    "gemma3_4b": 4_300_079_472,
    "phi4": 14_659_507_200,
    "deepseek_v3": 671e9,
    "kimi_k2": 1_026_408_232_448,
    "gpt_oss_20b": 20.91e9,
    "gpt_oss_120b": 116.83e9,
    "qwen2_5_coder_1_5b": 1_543_714_304,
    "qwen3_8b": 8.19e9,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_235b_a22b": 235e9,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen3_vl_8b": 8_767_123_696,
    "qwen3_omni_30b": 35_259_818_545,
    "qwen3_omni_30b_thinker": 31.7e9,  # of Thinking and Captioner
    "qwen3_omni_tiny": 97_541_053,  # made here: transformers' count of the model of that config.json
    "smollm2_135m": 134_515_008,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_parameters_are_as_many_as_published(name: str) -> None:
    found = sum(tensor.count for tensor in architectures.tensors(config(name)).values())
    assert found == pytest.approx(PUBLISHED[name], rel=0.002)


def test_transformers_reads_and_writes_exactly_these_tensors(tmp_path: Path) -> None:
    """A small checkpoint of each architecture: no tensor is missing, unexpected or of another shape, both ways."""
    kinds = {config(name)["model_type"]: name for name in reversed(SHIPPED)}  # of several the whole one, which is first
    del kinds["kimi_k2"]  # deepseek_v3 under another name, which transformers does not know
    kinds["mistral"] = "llama3_1_8b"
    small_configs = {kind: {**small(config(name)), "model_type": kind} for kind, name in kinds.items()}
    small_configs["mistral"]["architectures"] = ["MistralForCausalLM"]
    expected = {kind: write(tmp_path / kind, made) for kind, made in small_configs.items()}
    script = ROOT / "tests/support/save_again.py"
    done = subprocess.run(
        [managed.managed("quant").python, script, *(tmp_path / kind for kind in kinds)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for kind, tensors in expected.items():
        assert not any(read_json(tmp_path / kind / "report.json").values()), kind
        saved = {name: Tensor(found.dtype, found.shape) for name, found in headers(tmp_path / kind / "saved").items()}
        assert saved == tensors, kind


@pytest.mark.parametrize("name", SHIPPED)
def test_every_matrix_has_its_part(name: str) -> None:
    """A model of any size builds; experts, blocks and towers are counted as the config says."""
    text = architectures.language(config(name))
    found = list(tree(name).values())
    routers = [m for m in found if m.kind == "router" and m.served]
    experts = sum(m.stack for m in found if m.kind == "expert")
    count = next((text[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if key in text), 0)
    assert experts == len(routers) * count * (2 if "gpt_oss" in name else 3)
    assert {m.block for m in found if m.linear} == set(range(text["num_hidden_layers"]))
    assert sum(m.kind == "embedding" for m in found) == 1
    assert sum(m.kind == "head" for m in found) == (not text.get("tie_word_embeddings", False))
    for module in found:
        assert module.linear == (module.kind in ("attention", "mlp", "expert", "shared_expert"))


# name in the checkpoint -> kind, out_features, in_features, stack, name in vLLM, the matrix in which vLLM computes it
FACTS: dict[str, dict[str, tuple[str, int, int, int, str | None, str | None]]] = {
    "llama3_1_70b": {
        "model.layers.79.self_attn.k_proj":
            ("attention", 1024, 8192, 1, "model.layers.79.self_attn.k_proj", "model.layers.79.self_attn.qkv_proj"),
        "model.layers.0.self_attn.o_proj":
            ("attention", 8192, 8192, 1, "model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.o_proj"),
    },
    "phi4": {
        "model.layers.0.mlp.gate_up_proj":
            ("mlp", 35840, 5120, 1, "model.layers.0.mlp.gate_up_proj", "model.layers.0.mlp.gate_up_proj"),
    },
    "mixtral_8x7b": {
        "model.layers.1.block_sparse_moe.experts.7.w2":
            ("expert", 4096, 14336, 1, "model.layers.1.block_sparse_moe.experts.7.w2",
             "model.layers.1.block_sparse_moe.experts"),
        "model.layers.1.block_sparse_moe.gate":
            ("router", 8, 4096, 1, "model.layers.1.block_sparse_moe.gate", "model.layers.1.block_sparse_moe.gate"),
    },
    "gemma3_4b": {
        "language_model.model.layers.3.mlp.up_proj":
            ("mlp", 10240, 2560, 1, "language_model.model.layers.3.mlp.up_proj",
             "language_model.model.layers.3.mlp.gate_up_proj"),
        "vision_tower.vision_model.embeddings.patch_embedding":
            ("vision", 1152, 588, 1, "vision_tower.vision_model.embeddings.patch_embedding",
             "vision_tower.vision_model.embeddings.patch_embedding"),
        "multi_modal_projector.mm_input_projection_weight":
            ("projector", 1152, 2560, 1, "multi_modal_projector.mm_input_projection_weight",
             "multi_modal_projector.mm_input_projection_weight"),
    },
    "deepseek_v3": {
        "model.layers.0.self_attn.kv_a_proj_with_mqa":
            ("attention", 576, 7168, 1, "model.layers.0.self_attn.kv_a_proj_with_mqa",
             "model.layers.0.self_attn.fused_qkv_a_proj"),
        "model.layers.0.self_attn.kv_b_proj":
            ("attention", 32768, 512, 1, "model.layers.0.self_attn.kv_b_proj", "model.layers.0.self_attn.kv_b_proj"),
        "model.layers.3.mlp.shared_experts.gate_proj":
            ("shared_expert", 2048, 7168, 1, "model.layers.3.mlp.shared_experts.gate_proj",
             "model.layers.3.mlp.shared_experts.gate_up_proj"),
        "model.layers.3.mlp.experts.255.down_proj":
            ("expert", 7168, 2048, 1, "model.layers.3.mlp.experts.255.down_proj", "model.layers.3.mlp.experts"),
    },
    "gpt_oss_20b": {
        "model.layers.0.mlp.experts.gate_up_proj":
            ("expert", 5760, 2880, 32, "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts"),
        "model.layers.0.self_attn.q_proj":
            ("attention", 4096, 2880, 1, "model.layers.0.attn.q_proj", "model.layers.0.attn.qkv_proj"),
        "model.embed_tokens": ("embedding", 201088, 2880, 1, "model.embedding", "model.embedding"),
    },
    "qwen2_5_vl_7b": {
        "model.layers.0.self_attn.v_proj":
            ("attention", 512, 3584, 1, "language_model.model.layers.0.self_attn.v_proj",
             "language_model.model.layers.0.self_attn.qkv_proj"),
        "visual.merger.mlp.2": ("vision", 3584, 5120, 1, "visual.merger.mlp.2", "visual.merger.mlp.2"),
        "lm_head": ("head", 152064, 3584, 1, "language_model.lm_head", "language_model.lm_head"),
    },
    "qwen3_vl_8b": {
        "model.language_model.layers.0.mlp.down_proj":
            ("mlp", 4096, 12288, 1, "language_model.model.layers.0.mlp.down_proj",
             "language_model.model.layers.0.mlp.down_proj"),
        "model.visual.pos_embed": ("vision", 2304, 1152, 1, "visual.pos_embed", "visual.pos_embed"),
    },
    "qwen3_omni_30b": {
        "thinker.model.layers.47.mlp.experts.127.up_proj":
            ("expert", 768, 2048, 1, "language_model.model.layers.47.mlp.experts.127.up_proj",
             "language_model.model.layers.47.mlp.experts"),
        "thinker.audio_tower.conv2d2": ("audio", 480, 4320, 1, "audio_tower.conv2d2", "audio_tower.conv2d2"),
        "talker.model.layers.0.mlp.experts.0.up_proj": ("talker", 384, 1024, 1, None, None),
        "code2wav.decoder.1.block.1.conv": ("code2wav", 1536, 12288, 1, None, None),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_part_shape_and_names_of_a_matrix(name: str) -> None:
    for matrix, fact in FACTS[name].items():
        found = tree(name)[matrix]
        assert (
            found.kind, found.out_features, found.in_features, found.stack, found.served, found.fused
        ) == fact  # fmt: skip
        assert found.tensor in architectures.tensors(config(name))


def test_towers_are_never_quantized_and_say_why() -> None:
    omni = tree("qwen3_omni_30b").values()
    for kind in ("vision", "audio", "talker", "code2wav"):
        assert {m.kept for m in omni if m.kind == kind} == {modules.UNSEEN}
    assert {m.kept for m in omni if m.kind == "expert"} == {None}
    assert {m.block for m in omni if not m.name.startswith("thinker.model.layers.")} == {None}


def test_the_biases_of_stacked_experts_are_no_matrices() -> None:
    assert not [name for name in tree("gpt_oss_20b") if "bias" in name]


def test_latent_attention_without_a_latent_of_q_fuses_nothing() -> None:
    plain = {**config("deepseek_v3"), "q_lora_rank": None}
    found = {m.name: m for m in modules.from_tensors(architectures.tensors(plain), plain)}
    for leaf in ("q_proj", "kv_a_proj_with_mqa"):
        assert found[f"model.layers.0.self_attn.{leaf}"].fused == f"model.layers.0.self_attn.{leaf}"


def test_a_published_gemma_3_leaves_out_its_defaults() -> None:
    left_out = ("vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    full = config("gemma3_4b")
    short = {**full, "text_config": {k: v for k, v in full["text_config"].items() if k not in left_out}}
    assert architectures.tensors(short) == architectures.tensors(full)


def test_a_missing_number_is_named() -> None:
    with pytest.raises(ValueError, match="a llama model's shapes need 'intermediate_size', which is missing"):
        architectures.tensors({k: v for k, v in config("llama3_1_8b").items() if k != "intermediate_size"})


@pytest.mark.parametrize(
    ("name", "shape"), [("model.layers.0.mamba.in_proj.weight", (8, 8)), ("conv.weight", (8, 1, 4))]
)
def test_an_unknown_matrix_stays_in_bf16(name: str, shape: tuple[int, ...]) -> None:
    (found,) = modules.from_tensors({name: Tensor("BF16", shape)}, {"model_type": "llama"})
    assert (found.kind, found.kept) == ("unknown", "its role in the model is not known")


DRAFTERS = (
    "mtp.layers.0.self_attn.q_proj.weight", "model.mtp_layers.0.input_proj.weight", "model.mtp_block.0.self_attn.q_proj.weight",
    "model.nextn.layers.0.self_attn.q_proj.weight", "draft_model.layers.0.self_attn.q_proj.weight", "eagle3.fc.weight",
    "medusa_head.0.0.linear.weight",
)  # fmt: skip


def test_layers_of_multi_token_prediction_draft_and_stay_in_bf16() -> None:
    deepseek = config("deepseek_v3")
    at = f"model.layers.{deepseek['num_hidden_layers']}."
    more = {
        f"{at}{leaf}.weight": Tensor("BF16", (8, 16))
        for leaf in ("eh_proj", "self_attn.o_proj", "mlp.experts.0.up_proj", "shared_head.head")
    }
    found = {m.name: m for m in modules.from_tensors({**architectures.tensors(deepseek), **more}, deepseek)}
    assert {found[name.removesuffix(".weight")].kind for name in more} == {"draft"}
    assert found["model.layers.60.self_attn.o_proj"].linear
    qwen = {"model_type": "qwen3_next", "num_hidden_layers": 2}
    for name in DRAFTERS:
        (other,) = modules.from_tensors({name: Tensor("BF16", (8, 8))}, qwen)
        assert (other.kind, other.block) == ("draft", None)


def test_a_block_more_than_the_config_says_drafts_nothing() -> None:
    shapes = architectures.tensors(config("llama3_1_8b"))
    shapes["model.layers.32.self_attn.o_proj.weight"] = Tensor("BF16", (8, 8))
    found = {m.name: m for m in modules.from_tensors(shapes, config("llama3_1_8b"))}
    assert found["model.layers.32.self_attn.o_proj"].kind == "attention"


def test_stacked_experts_are_exported_one_by_one() -> None:
    found = tree("gpt_oss_20b")
    gate_up, down = (found[f"model.layers.0.mlp.experts.{leaf}"] for leaf in ("gate_up_proj", "down_proj"))
    assert len(gate_up.matrices) == 64
    assert len(down.matrices) == 32
    assert gate_up.matrices[:2] == [
        ("model.layers.0.mlp.experts.0.gate_proj", 2880, 2880),
        ("model.layers.0.mlp.experts.0.up_proj", 2880, 2880),
    ]
    assert down.matrices[-1] == ("model.layers.0.mlp.experts.31.down_proj", 2880, 2880)
