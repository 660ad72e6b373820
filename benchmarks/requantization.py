"""What quantizing again costs models that are published quantized: the error of each target against the unpacked source.

    PYTHONPATH=. .venvs/quant/bin/python benchmarks/requantization.py WORK SOURCE...

Each SOURCE is a checkpoint as it is published; WORK gets what is made. Prints a Markdown table: of all linear
layers in blocks, the root of the mean squared error over that of the source's weights, in percent.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from safetensors.torch import load_file

from qforge.methods import stacks
from qforge.methods.packing import Packer
from qforge.methods.rewriting import unpack
from qforge.methods.source import Source
from qforge.methods.streaming import Stream
from qforge.models import quantization_config, quantized_source
from qforge.models.modules import from_tensors

TARGETS = {
    "int4": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32},
    "nvfp4": {
        "num_bits": 4, "type": "float", "strategy": "tensor_group", "symmetric": True, "group_size": 16,
        "scale_dtype": "torch.float8_e4m3fn", "observer": "memoryless_minmax",
    },
}  # fmt: skip


def main(work: Path, sources: list[Path]) -> None:
    print("| source | matrices | INT4 at group 32, % | NVFP4, % |\n|---|---|---|---|")
    for folder in sources:
        source = Source(folder)
        packing = quantized_source.recognize(source.stored, quantization_config.read(folder))
        errors = [error(source, work / folder.name, layout) for layout in TARGETS]
        print(f"| {folder.name}: {packing.summary if packing else 'plain'} | {errors[0][1]} | "
              f"{' | '.join(f'{100 * value:.2f}' for value, _ in errors)} |", flush=True)  # fmt: skip


def error(source: Source, work: Path, layout: str) -> tuple[float, int]:
    """Relative, of all matrices together, and how many they are."""
    scheme = {"targets": ["Linear"], "weights": TARGETS[layout]}
    packer = Packer({"config_groups": {"weights": scheme}, "ignore": ["lm_head"]})
    stream = Stream(source, layout, packer, [])
    stream.write(out := work / layout / "artifact")
    ModelCompressor(quantization_config=packer.config).update_config(out)
    wrong, whole = 0.0, 0.0
    matrices = [m for m in from_tensors(source.tensors, source.config) if m.linear]
    unpack(out, plain := work / layout / "plain" / "artifact")
    made = {name: tensor for file in plain.glob("*.safetensors") for name, tensor in load_file(file).items()}
    parts = [part for m in matrices for part in stacks.parts(m)]
    for part in parts:
        rows = torch.empty((part.out_features, part.in_features), dtype=torch.bfloat16)
        source.load(rows, part)
        wrong += float((rows.float() - made[f"{part.name}.weight"].float()).square().sum())
        whole += float(rows.float().square().sum())
    return (wrong / whole) ** 0.5, len(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
