"""Time and memory of the streams on sources that are published quantized, against their size: is memory as flat as for bf16?

    .venv/bin/python benchmarks/streaming_packed.py FOLDER [--gb 2 5] [--kinds bf16 fp8_block] [--methods rtn nvfp4_llmc]

makes sources of about these sizes (of their bf16 form) out of random bytes: Qwen3-30B-A3B's shape in bf16, in FP8 blocks as
DeepSeek publishes and in INT4 as Kimi does, and GPT-OSS-20B's with half its experts, in MXFP4; all with a small vocabulary.
Each is unpacked and quantized again in a fresh process, measured by benchmarks/streaming.py. One JSON per row goes to
outputs/streaming-packed/, or to --out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from streaming import SHAPE, deep, measure

from qforge.json_files import read_json, write_json
from qforge.models import architectures
from qforge.models.checkpoint import Tensor
from qforge.models.modules import Module, from_tensors
from qforge.models.shards import Shard, in_files, write_index

ROOT = Path(__file__).resolve().parent.parent
GPT_OSS = ROOT / "data" / "architectures" / "gpt_oss_20b.json"
SMALLER = {"vocab_size": 32768}  # so that blocks are what grows, not the embedding
NARROWER = {"num_local_experts": 16, "hidden_size": 2816, "intermediate_size": 2816}  # 2880 has no groups of 128
GROUP = 128
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
SAID: dict[str, dict[str, Any]] = {  # quantization_config of each kind
    "bf16": {},
    "fp8_block": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    "int4": {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4}},
    },
    "mxfp4": {"quant_method": "mxfp4"},
}  # fmt: skip
COLUMNS = ("model_gb", "source_gb", "stream_s", "cpu_s", "peak_rss_gib", "peak_gpu_gib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gb", type=float, nargs="+", default=[2, 5])
    parser.add_argument("--kinds", nargs="+", default=list(SAID), choices=SAID)
    parser.add_argument("--methods", nargs="+", default=["rtn", "nvfp4_llmc"])
    parser.add_argument("--python", default=str(ROOT / ".venvs/quant/bin/python"), help="of the stage")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "streaming-packed")
    options = parser.parse_args()
    options.inspect = False
    options.out.mkdir(parents=True, exist_ok=True)
    print("source", "method", *COLUMNS, sep=" | ")
    for kind in options.kinds:
        for size in options.gb:
            source = published(options.folder / f"{kind}-{size:g}", kind, size)
            stored = sum(file.stat().st_size for file in source.glob("*.safetensors")) / 1e9
            for method in options.methods:
                row = {"source": kind, "source_gb": stored, **measure(method, source, options)}
                write_json(options.out / f"{kind}-{method}-{size:g}gb.json", row)
                cells = [f"{row[c]:.2f}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS]
                print(kind, method, *cells, sep=" | ", flush=True)
            shutil.rmtree(source)


def published(folder: Path, kind: str, size: float) -> Path:
    """A checkpoint of a kind: its matrices packed, the rest in bf16, all of random bytes."""
    base = read_json(GPT_OSS) | NARROWER if kind == "mxfp4" else read_json(SHAPE)
    base = {key: value for key, value in base.items() if key != "quantization_config"} | SMALLER
    config = {**deep(base, size), "dtype": "bfloat16"}
    plain = {name: Tensor("BF16", tensor.shape) for name, tensor in architectures.tensors(config).items()}
    matrices = {m.tensor: m for m in from_tensors(plain, config) if m.linear and (m.stack > 1 or kind != "mxfp4")}
    tensors: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        tensors |= packed(kind, matrices[name]) if kind != "bf16" and name in matrices else {name: tensor}
    folder.mkdir(parents=True)
    said = {"quantization_config": SAID[kind]} if SAID[kind] else {}
    (folder / "config.json").write_text(json.dumps({**config, **said}))
    contents = random_bytes()
    shards = [Shard(folder / file, group) for file, group in in_files(tensors).items()]
    for shard in shards:
        fill(shard, contents, matrices)
    write_index(folder, {shard.file.name: shard.tensors for shard in shards})
    return folder


def packed(kind: str, matrix: Module) -> dict[str, Tensor]:
    """The tensors that hold a matrix, or GPT-OSS's experts of a layer, by their names in such a checkpoint."""
    rows, columns, name = matrix.out_features, matrix.in_features, matrix.name
    if kind == "fp8_block":
        blocks = (-(-rows // 128), -(-columns // 128))
        return {f"{name}.weight": Tensor("F8_E4M3", (rows, columns)), f"{name}.weight_scale_inv": Tensor("F32", blocks)}
    if kind == "int4":
        return {
            f"{name}.weight_packed": Tensor("I32", (rows, columns // 8)),
            f"{name}.weight_scale": Tensor("BF16", (rows, columns // GROUP)),
            f"{name}.weight_shape": Tensor("I64", (2,)),
        }
    groups = (matrix.stack, rows, columns // 32)
    return {f"{name}_blocks": Tensor("U8", (*groups, 16)), f"{name}_scales": Tensor("U8", groups)}


def random_bytes() -> dict[str, bytes]:
    """A piece of what each dtype is filled with: no NaN, and scales that give weights of common size."""
    random, size = np.random.default_rng(0), 32 << 20
    small = random.uniform(1e-4, 3e-4, size // 4).astype(np.float32)
    return {
        "F8_E4M3": (random.integers(0, 256, size, np.uint8) & 0xF7).tobytes(),  # NaN has all bits of the exponent
        "I32": random.bytes(size), "U8": random.bytes(size), "F32": small.tobytes(),
        "BF16": (random.normal(0, 0.02, size // 2).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes(),
        "scales": (small.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
        "_scales": random.integers(116, 122, size, np.uint8).tobytes(),
    }  # fmt: skip


def fill(shard: Shard, contents: dict[str, bytes], matrices: dict[str, Module]) -> None:
    shapes = {m.name: (m.out_features, m.in_features) for m in matrices.values()}
    shard.open()
    for name, tensor in shard.tensors.items():
        if name.endswith(".weight_shape"):
            shard.put(name, memoryview(np.array(shapes[name.removesuffix(".weight_shape")], np.int64).tobytes()))
            continue
        kind = "_scales" if name.endswith("_scales") else "scales" if name.endswith(".weight_scale") else tensor.dtype
        piece = memoryview(contents[kind])
        for start in range(0, tensor.nbytes, len(piece)):
            shard.put(name, piece[: min(len(piece), tensor.nbytes - start)], start)
    shard.close()


if __name__ == "__main__":
    main()
