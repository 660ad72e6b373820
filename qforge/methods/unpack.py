"""A packed checkpoint back to bf16, for unservable=measure: what no kernel reads can still be scored.

Each library's own code unpacks what it packed: compressed-tensors' compressors, ModelOpt's NVFP4QTensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from qforge import json_files

Unpack = Callable[[dict[str, torch.Tensor]], torch.Tensor]  # one module's tensors by suffix -> its weight


def unpack(packed: Path, out: Path) -> None:
    """Write the checkpoint in `packed` to `out` as a plain bf16 one, file by file."""
    out.mkdir(parents=True, exist_ok=True)
    config = json_files.read_json(packed / "config.json")
    quantization = config.pop("quantization_config")
    weight = _modelopt(quantization) if quantization["quant_method"] == "modelopt" else _compressed(quantization)
    places: dict[str, str] = {}
    for file in sorted(packed.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            plain = _plain({name: tensors.get_tensor(name) for name in tensors.keys()}, weight)  # noqa: SIM118
        save_file(plain, out / file.name, {"format": "pt"})
        places |= dict.fromkeys(plain, file.name)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if set(places.values()) != {"model.safetensors"}:  # a single file of another name is not read without it
        index = {"metadata": {}, "weight_map": dict(sorted(places.items()))}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _plain(tensors: dict[str, torch.Tensor], weight: Unpack) -> dict[str, torch.Tensor]:
    modules = {name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")}
    parts: dict[str, dict[str, torch.Tensor]] = {module: {} for module in modules}
    plain = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        if module in modules and suffix.startswith("weight"):
            parts[module][suffix] = tensor
        else:
            plain[name] = tensor
    unpacked = {f"{module}.weight": weight(part).to(torch.bfloat16).contiguous() for module, part in parts.items()}
    return {**plain, **unpacked}


def _compressed(quantization: dict[str, Any]) -> Unpack:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    fields = {key: value for key, value in quantization.items() if key in QuantizationConfig.model_fields}
    (scheme,) = QuantizationConfig(**fields).config_groups.values()
    scheme.format = quantization["format"]
    compressor = BaseCompressor.get_value_from_registry(quantization["format"])
    return lambda part: compressor.decompress(part, scheme)["weight"]


def _modelopt(quantization: dict[str, Any]) -> Unpack:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    (group,) = quantization["config_groups"].values()
    size = group["weights"]["group_size"]

    def weight(part: dict[str, torch.Tensor]) -> torch.Tensor:
        rows, half = part["weight"].shape
        packed = NVFP4QTensor(torch.Size((rows, 2 * half)), torch.bfloat16, part["weight"])
        scales = {"scale": part["weight_scale"], "double_scale": part["weight_scale_2"]}
        unpacked: torch.Tensor = packed.dequantize(dtype=torch.bfloat16, block_sizes={-1: size}, **scales)
        return unpacked

    return weight
