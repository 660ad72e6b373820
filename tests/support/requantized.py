"""In the quantizer's environment: what becomes of a source that is published quantized.

`python requantized.py REQUEST...`: each request's source is unpacked to <out>/plain, held against the libraries' own code, and
quantized by the request's job twice, from the source to <out>/stream and from what was unpacked to <out>/plain_stream.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from compressed_tensors.entrypoints.convert.converters import CompressedTensorsDequantizer
from modelopt.torch.quantization.qtensor import FP8QTensor, NVFP4QTensor
from pydantic import TypeAdapter
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Mxfp4Config

from qforge import json_files
from qforge.envs.request import Request
from qforge.methods import streaming
from qforge.methods.rewriting import unpack

Tensors = dict[str, torch.Tensor]


def tensors_of(folder: Path) -> Tensors:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def by_library(source: Path) -> Tensors:
    """The weights that were packed, unpacked by the library that would load them."""
    stored = tensors_of(source)
    said = json_files.read_json(source / "config.json").get("quantization_config") or {}
    if said.get("quant_method") == "compressed-tensors":
        packed = {name.rpartition(".")[0] for name in stored if name.endswith(".weight_scale")}
        plain = CompressedTensorsDequantizer(source, ignore=["re:.*(embed_tokens|norm|lm_head)"]).process(stored)
        return {f"{name}.weight": plain[f"{name}.weight"] for name in packed}
    if said.get("quant_method") == "modelopt":
        return {
            f"{name.removesuffix('.weight_scale_2')}.weight": nvfp4(stored, name)
            for name in stored
            if "scale_2" in name
        }
    if said.get("quant_method") == "mxfp4":
        model = AutoModelForCausalLM.from_pretrained(source, quantization_config=Mxfp4Config(dequantize=True))
        return {n: t for n, t in model.state_dict().items() if n.endswith("_proj") and ".experts." in n}
    scales = {name: tensor for name, tensor in stored.items() if name.endswith((".weight_scale_inv", ".weight_scale"))}
    return {f"{name.rpartition('.')[0]}.weight": fp8(stored, name) for name in scales}


def nvfp4(stored: Tensors, name: str) -> torch.Tensor:
    stem = name.removesuffix("_scale_2")
    packed = NVFP4QTensor(torch.Size((len(stored[stem]), 2 * stored[stem].shape[1])), torch.bfloat16, stored[stem])
    scales = {"scale": stored[f"{stem}_scale"], "double_scale": stored[name]}
    plain: torch.Tensor = packed.dequantize(dtype=torch.bfloat16, block_sizes={-1: 16}, **scales)
    return plain


def fp8(stored: Tensors, name: str) -> torch.Tensor:
    weight, scale = stored[f"{name.rpartition('.')[0]}.weight"], stored[name].float()
    sizes = {0: 128, 1: 128} if scale.ndim else None
    packed = FP8QTensor(weight.shape, torch.bfloat16, weight)
    plain: torch.Tensor = packed.dequantize(dtype=torch.float32, scale=scale, block_sizes=sizes)
    return plain.to(torch.bfloat16)


for file in sys.argv[1:]:
    request = TypeAdapter(Request).validate_json(Path(file).read_text())
    source, out = Path(request.inputs["source"]), Path(request.out)
    unpack(source, out / "plain" / "artifact")
    plain = tensors_of(out / "plain" / "artifact")
    wanted = by_library(source)
    assert wanted, source
    for name, tensor in wanted.items():
        assert torch.equal(plain[name], tensor), (source.name, name)
    streaming.quantize(request.job, source, out / "stream" / "artifact", request.exempt, None)
    streaming.quantize(request.job, out / "plain" / "artifact", out / "plain_stream" / "artifact", request.exempt, None)
