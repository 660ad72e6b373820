"""In the quantizer's environment: small models as others publish them quantized.

`python published.py OUT BF16 DEEPSEEK` writes OUT/<kind> for each kind that no method here makes: BF16 is a plain checkpoint of
a dense model, DEEPSEEK of one with experts and a router.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GptOssConfig

Tensors = dict[str, torch.Tensor]
LARGEST = 448.0  # in E4M3
KEPT = ("embed_tokens.weight", "lm_head.weight", ".gate.weight")


def fp8_blocks(weight: torch.Tensor, powers: bool = False) -> Tensors:
    """As DeepSeek: squares of 128, their scales in float32; as DeepSeek-V3.1 powers of two."""
    rows, columns = (-(-size // 128) for size in weight.shape)
    padded = torch.zeros(rows * 128, columns * 128)
    padded[: weight.shape[0], : weight.shape[1]] = weight.float()
    blocks = padded.view(rows, 128, columns, 128)
    scale = blocks.abs().amax((1, 3)) / LARGEST
    scale = scale.log2().ceil().exp2() if powers else scale
    packed = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn).view(padded.shape)
    packed = packed[: weight.shape[0], : weight.shape[1]].contiguous()
    return {"weight": packed, "weight_scale_inv": scale.to(torch.float8_e8m0fnu) if powers else scale}


def fp8_tensor(weight: torch.Tensor) -> Tensors:
    """As ModelOpt: one scale for a matrix, and one for its activations."""
    scale = weight.float().abs().max() / LARGEST
    return {
        "weight": (weight.float() / scale).to(torch.float8_e4m3fn),
        "weight_scale": scale,
        "input_scale": torch.tensor(0.02),
    }


def nvfp4(weight: torch.Tensor) -> Tensors:
    """As ModelOpt, with the scale of quantized activations."""
    packed, scale, double = NVFP4QTensor.quantize(weight, 16)
    scales = {"weight_scale": scale, "weight_scale_2": double, "input_scale": torch.tensor(0.02)}
    return {"weight": packed._quantized_data, **scales}


def int4_asymmetric(weight: torch.Tensor) -> Tensors:
    """As compressed-tensors packs zero points."""
    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32, symmetric=False)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    groups = weight.float().unflatten(-1, (-1, 32))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    part = {"weight": weight, "weight_scale": scale.to(weight.dtype), "weight_zero_point": zero}
    packed: Tensors = BaseCompressor.get_value_from_registry("pack-quantized").compress(part, scheme)
    return packed


def rewrite(source: Path, out: Path, pack: Callable[[torch.Tensor], Tensors], said: dict[str, Any] | None) -> None:
    """`source` with every matrix packed; `said`: the quantization_config of its config.json."""
    shutil.copytree(source, out)
    places = {}
    for file in out.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        packed: Tensors = {}
        for name, tensor in tensors.items():
            if tensor.ndim < 2 or name.endswith(KEPT):
                packed[name] = tensor
            else:
                stem = name.removesuffix(".weight")
                packed |= {f"{stem}.{suffix}": part.contiguous() for suffix, part in pack(tensor).items()}
        save_file(packed, file, {"format": "pt"})
        places |= dict.fromkeys(packed, file.name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    if said is not None:
        config = json.loads((source / "config.json").read_text())
        (out / "config.json").write_text(json.dumps({**config, "quantization_config": said}))


def gpt_oss(out: Path) -> None:
    """As OpenAI published it: the experts of a layer in one tensor, packed; all values are random."""
    config = GptOssConfig(
        hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        num_local_experts=4, num_experts_per_tok=2, vocab_size=512, sliding_window=32, dtype="bfloat16",
        quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
    )  # fmt: skip
    config.architectures = ["GptOssForCausalLM"]
    config.save_pretrained(out)
    torch.manual_seed(0)
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_local_experts
    shapes = {
        "model.embed_tokens.weight": (512, hidden),
        "lm_head.weight": (512, hidden),
        "model.norm.weight": (hidden,),
    }
    tensors: Tensors = {}
    for layer in ("model.layers.0", "model.layers.1"):
        for leaf, (rows, columns) in {
            "q": (256, hidden),
            "k": (128, hidden),
            "v": (128, hidden),
            "o": (hidden, 256),
        }.items():
            shapes |= {
                f"{layer}.self_attn.{leaf}_proj.weight": (rows, columns),
                f"{layer}.self_attn.{leaf}_proj.bias": (rows,),
            }
        shapes |= {f"{layer}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{layer}.self_attn.sinks": (4,), f"{layer}.mlp.router.weight": (experts, hidden)}
        shapes |= {f"{layer}.mlp.router.bias": (experts,)}
        for leaf, rows, columns in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
            stem = f"{layer}.mlp.experts.{leaf}"
            tensors[f"{stem}_blocks"] = torch.randint(0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8)
            tensors[f"{stem}_scales"] = torch.randint(116, 122, (experts, rows, columns // 32), dtype=torch.uint8)
            shapes[f"{stem}_bias"] = (experts, rows)
    tensors |= {name: torch.randn(shape).mul(0.05).to(torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})


def main(out: Path, plain: Path, deepseek: Path) -> None:
    blocks = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    rewrite(deepseek, out / "fp8_block", fp8_blocks, blocks)
    rewrite(plain, out / "fp8_block_ue8m0", lambda weight: fp8_blocks(weight, powers=True), None)  # dtypes alone
    rewrite(plain, out / "fp8_tensor", fp8_tensor, None)
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (out / "fp8_tensor" / "hf_quant_config.json").write_text(json.dumps(said))
    modelopt = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    rewrite(plain, out / "nvfp4_modelopt", nvfp4, modelopt)
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
    group = {"targets": ["Linear"], "weights": weights}
    packed = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}
    rewrite(plain, out / "int4_asym", int4_asymmetric, packed)
    gpt_oss(out / "mxfp4_gpt_oss")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
