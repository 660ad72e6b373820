"""What Qwen3-Omni hears and speaks with, from transformers' modeling_qwen3_omni_moe."""

from __future__ import annotations

from qforge.models.architectures.decoders import qwen3_layer
from qforge.models.architectures.moe import qwen3_moe_layer
from qforge.models.architectures.parts import Config, Shapes, attention, block, blocks, conv, gated, linear, norm


def audio_tower(config: Config, at: str) -> Shapes:
    """Three convolutions of stride 2 over the mel bins, a transformer, two projections."""
    size, width, mid = config["d_model"], config["encoder_ffn_dim"], config["downsample_hidden_size"]
    for number, channels in ((1, 1), (2, mid), (3, mid)):
        yield from conv(f"{at}conv2d{number}", mid, channels, 3, 3, bias=mid)
    bins = -(-config["num_mel_bins"] // 8)
    yield from linear(f"{at}conv_out", size, mid * bins)
    for number in range(config["encoder_layers"]):
        layer = f"{at}layers.{number}."
        for leaf in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}self_attn.{leaf}", size, size, bias=True)
        yield from linear(f"{layer}fc1", width, size, bias=True)
        yield from linear(f"{layer}fc2", size, width, bias=True)
        yield from norm(f"{layer}self_attn_layer_norm", size, bias=True)
        yield from norm(f"{layer}final_layer_norm", size, bias=True)
    yield from norm(f"{at}ln_post", size, bias=True)
    yield from linear(f"{at}proj1", size, size, bias=True)
    yield from linear(f"{at}proj2", config["output_dim"], size, bias=True)


def talker(config: Config, at: str) -> Shapes:
    """The decoder that speaks: it embeds codes, takes the thinker's states, predicts the first code of a frame."""
    text, codes, thinker = config["text_config"], config["code_predictor_config"], config["thinker_hidden_size"]
    hidden = text["hidden_size"]
    yield f"{at}model.codec_embedding.weight", (text["vocab_size"], hidden)
    yield from blocks(text, f"{at}model.", _talker_layer)
    yield from linear(f"{at}codec_head", text["vocab_size"], hidden)
    for leaf in ("text_projection", "hidden_projection"):
        yield from linear(f"{at}{leaf}.linear_fc1", text["intermediate_size"], thinker, bias=True)
        yield from linear(f"{at}{leaf}.linear_fc2", hidden, text["intermediate_size"], bias=True)
    for number in range(codes["num_code_groups"] - 1):  # the other codes of a frame, one head each
        yield f"{at}code_predictor.model.codec_embedding.{number}.weight", (codes["vocab_size"], codes["hidden_size"])
        yield from linear(f"{at}code_predictor.lm_head.{number}", codes["vocab_size"], codes["hidden_size"])
    yield from blocks(codes, f"{at}code_predictor.model.", qwen3_layer)


def _talker_layer(config: Config, at: str, number: int) -> Shapes:
    yield from qwen3_moe_layer(config, at, number)
    yield from gated(f"{at}mlp.shared_expert.", config["hidden_size"], config["shared_expert_intermediate_size"])
    yield from linear(f"{at}mlp.shared_expert_gate", 1, config["hidden_size"])


def code2wav(config: Config, at: str) -> Shapes:
    """Codes to sound: a transformer, then convolutions that upsample."""
    hidden = config["hidden_size"]
    yield f"{at}code_embedding.weight", (config["codebook_size"] * config["num_quantizers"], hidden)
    yield from blocks(config, f"{at}pre_transformer.", _code2wav_layer)
    for number, ratio in enumerate(config["upsampling_ratios"]):
        yield from conv(f"{at}upsample.{number}.0.conv", hidden, hidden, ratio, bias=hidden)
        yield from _convnext(f"{at}upsample.{number}.1.", hidden)
    yield from _vocoder(config, f"{at}decoder.")


def _code2wav_layer(config: Config, at: str, number: int) -> Shapes:
    mlp = gated(f"{at}mlp.", config["hidden_size"], config["intermediate_size"])
    yield from block(config, at, mlp, attention(config, at))
    yield f"{at}self_attn_layer_scale.scale", (config["hidden_size"],)
    yield f"{at}mlp_layer_scale.scale", (config["hidden_size"],)


def _convnext(at: str, size: int) -> Shapes:
    yield f"{at}gamma", (size,)
    yield from conv(f"{at}dwconv.conv", size, 1, 7, bias=size)
    yield from norm(f"{at}norm", size, bias=True)
    yield from linear(f"{at}pwconv1", 4 * size, size, bias=True)
    yield from linear(f"{at}pwconv2", size, 4 * size, bias=True)


def _vocoder(config: Config, at: str) -> Shapes:
    """Each rate halves the channels and multiplies the samples."""
    size = config["decoder_dim"]
    yield from conv(f"{at}0.conv", size, config["hidden_size"], 7, bias=size)
    for number, rate in enumerate(config["upsample_rates"], start=1):
        yield from _snake(f"{at}{number}.block.0.", size)
        yield from conv(f"{at}{number}.block.1.conv", size, size // 2, 2 * rate, bias=size // 2)
        size //= 2
        for unit in (2, 3, 4):  # dilations 1, 3, 9
            for half, kernel in ((1, 7), (2, 1)):
                yield from _snake(f"{at}{number}.block.{unit}.act{half}.", size)
                yield from conv(f"{at}{number}.block.{unit}.conv{half}.conv", size, size, kernel, bias=size)
    last = len(config["upsample_rates"]) + 1
    yield from _snake(f"{at}{last}.", size)
    yield from conv(f"{at}{last + 1}.conv", 1, size, 7, bias=1)


def _snake(at: str, size: int) -> Shapes:
    yield f"{at}alpha", (size,)
    yield f"{at}beta", (size,)
