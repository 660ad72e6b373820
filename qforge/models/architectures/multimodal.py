"""Language models with towers, from transformers' modeling_gemma3, _siglip, _qwen2_5_vl, _qwen3_vl, _qwen3_omni_moe."""

from __future__ import annotations

from qforge.models.architectures import speech
from qforge.models.architectures.decoders import GEMMA3, gemma3_layer, qwen2_layer, qwen3_layer
from qforge.models.architectures.moe import qwen3_moe_layer
from qforge.models.architectures.parts import Config, Shapes, conv, decoder, gated, head, linear, norm


def gemma3(config: Config) -> Shapes:
    text, vision = {**GEMMA3, **config["text_config"]}, config["vision_config"]
    yield from decoder(text, "language_model.model.", gemma3_layer)
    yield from head(text, "language_model.lm_head")
    yield from _siglip(vision, "vision_tower.vision_model.")
    yield "multi_modal_projector.mm_input_projection_weight", (vision["hidden_size"], text["hidden_size"])
    yield from norm("multi_modal_projector.mm_soft_emb_norm", vision["hidden_size"])


def _siglip(config: Config, at: str) -> Shapes:
    hidden, width, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    yield from conv(f"{at}embeddings.patch_embedding", hidden, 3, patch, patch, bias=hidden)
    yield f"{at}embeddings.position_embedding.weight", ((config["image_size"] // patch) ** 2, hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"{at}encoder.layers.{number}."
        for leaf in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{layer}self_attn.{leaf}", hidden, hidden, bias=True)
        yield from norm(f"{layer}layer_norm1", hidden, bias=True)
        yield from norm(f"{layer}layer_norm2", hidden, bias=True)
        yield from linear(f"{layer}mlp.fc1", width, hidden, bias=True)
        yield from linear(f"{layer}mlp.fc2", hidden, width, bias=True)
    yield from norm(f"{at}post_layernorm", hidden, bias=True)


def qwen2_5_vl(config: Config) -> Shapes:
    text = config.get("text_config", config)
    yield from decoder(text, "model.", qwen2_layer)
    yield from head({**text, **config})
    yield from _qwen2_5_visual(config["vision_config"], "visual.")


def _qwen2_5_visual(config: Config, at: str) -> Shapes:
    hidden = config["hidden_size"]
    yield from _patches(config, at, config.get("in_chans", 3), bias=False)
    for number in range(config["depth"]):
        layer = f"{at}blocks.{number}."
        yield from norm(f"{layer}norm1", hidden)
        yield from norm(f"{layer}norm2", hidden)
        yield from linear(f"{layer}attn.qkv", 3 * hidden, hidden, bias=True)
        yield from linear(f"{layer}attn.proj", hidden, hidden, bias=True)
        yield from gated(f"{layer}mlp.", hidden, config["intermediate_size"], bias=True)
    wide = hidden * config["spatial_merge_size"] ** 2
    yield from norm(f"{at}merger.ln_q", hidden)
    yield from linear(f"{at}merger.mlp.0", wide, wide, bias=True)
    yield from linear(f"{at}merger.mlp.2", config["out_hidden_size"], wide, bias=True)


def qwen3_vl(config: Config) -> Shapes:
    text = config["text_config"]
    yield from decoder(text, "model.language_model.", qwen3_layer)
    yield from head({**text, **config})
    yield from _qwen3_visual(config["vision_config"], "model.visual.", QWEN3_VL_MERGER)


def qwen3_omni(config: Config) -> Shapes:
    thinker = config["thinker_config"]
    yield from decoder(thinker["text_config"], "thinker.model.", qwen3_moe_layer)
    yield from head(thinker["text_config"], "thinker.lm_head")
    yield from _qwen3_visual(thinker["vision_config"], "thinker.visual.", QWEN3_OMNI_MERGER)
    yield from speech.audio_tower(thinker["audio_config"], "thinker.audio_tower.")
    if config.get("enable_audio_output", True):
        yield from speech.talker(config["talker_config"], "talker.")
        yield from speech.code2wav(config["code2wav_config"], "code2wav.")


# The same tower under two sets of names: further mergers, norm, first and second matrix of a merger.
QWEN3_VL_MERGER = ("deepstack_merger_list", "norm", "linear_fc1", "linear_fc2")
QWEN3_OMNI_MERGER = ("merger_list", "ln_q", "mlp.0", "mlp.2")


def _qwen3_visual(config: Config, at: str, names: tuple[str, str, str, str]) -> Shapes:
    hidden, width = config["hidden_size"], config["intermediate_size"]
    yield from _patches(config, at, config.get("in_channels", 3), bias=True)
    yield f"{at}pos_embed.weight", (config["num_position_embeddings"], hidden)
    for number in range(config["depth"]):
        layer = f"{at}blocks.{number}."
        yield from norm(f"{layer}norm1", hidden, bias=True)
        yield from norm(f"{layer}norm2", hidden, bias=True)
        yield from linear(f"{layer}attn.qkv", 3 * hidden, hidden, bias=True)
        yield from linear(f"{layer}attn.proj", hidden, hidden, bias=True)
        yield from linear(f"{layer}mlp.linear_fc1", width, hidden, bias=True)
        yield from linear(f"{layer}mlp.linear_fc2", hidden, width, bias=True)
    further, ln, first, second = names
    wide = hidden * config["spatial_merge_size"] ** 2
    mergers = [("merger", hidden)]  # it normalizes before it merges patches, the further ones after
    mergers += [(f"{further}.{number}", wide) for number in range(len(config["deepstack_visual_indexes"]))]
    for merger, normed in mergers:
        yield from norm(f"{at}{merger}.{ln}", normed, bias=True)
        yield from linear(f"{at}{merger}.{first}", wide, wide, bias=True)
        yield from linear(f"{at}{merger}.{second}", config["out_hidden_size"], wide, bias=True)


def _patches(config: Config, at: str, channels: int, bias: bool) -> Shapes:
    hidden, patch, frames = config["hidden_size"], config["patch_size"], config["temporal_patch_size"]
    return conv(f"{at}patch_embed.proj", hidden, channels, frames, patch, patch, bias=hidden if bias else 0)
