"""Small checkpoints of random weights, and scripts in the quantizer's environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from support.command import ROOT
from support.jobs import job

from qforge.config.job import Job
from qforge.envs.request import Request
from qforge.models import architectures, modules
from qforge.models.checkpoint import Tensor
from qforge.models.shards import Shard
from qforge.plan import plan

DENSE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 49152,
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip

MOE = {
    **DENSE, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "norm_topk_prob": True, "decoder_sparse_step": 1,
    "tie_word_embeddings": True, "dtype": "float32",
}  # fmt: skip


def checkpoint(folder: Path, config: dict, tokenizer: Path, files: int) -> Path:
    """Random weights, of the config's dtype, dealt out to the files one by one: what is fused lies in several."""
    folder.mkdir()
    dtype = {"bfloat16": "BF16", "float32": "F32"}[config["dtype"]]
    tensors = {name: Tensor(dtype, t.shape) for name, t in architectures.tensors(config).items()}
    names = [f"model-{i:05}-of-{files:05}.safetensors" for i in range(1, files + 1)]
    places = {name: names[i % files] for i, name in enumerate(tensors)}
    random = np.random.default_rng(0)
    for file in names:
        shard = Shard(folder / file, {name: t for name, t in tensors.items() if places[name] == file})
        shard.open()
        for name, tensor in shard.tensors.items():
            values = random.normal(0, 0.05, tensor.shape).astype(np.float32)
            values *= 1 + places[name].count("2")  # largest weights differ from file to file
            bits = values if dtype == "F32" else values.astype(ml_dtypes.bfloat16)
            shard.put(name, memoryview(bits.reshape(-1).view(np.uint8)))
        shard.close()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


def small_llama(folder: Path, **config: object) -> Path:
    """A small Llama in one file, of random weights, without a tokenizer. `config` is what its config.json says otherwise."""
    committed = json.loads((ROOT / "data/architectures/llama3_1_8b.json").read_text())
    small = {
        **committed, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "num_hidden_layers": 2, "vocab_size": 256, "tie_word_embeddings": True, **config,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(small))
    shard = Shard(folder / "model.safetensors", architectures.tensors({**small, "model_type": "llama"}))
    random = np.random.default_rng(0)
    shard.open()
    for name, tensor in shard.tensors.items():
        values = random.normal(0, 0.05, tensor.shape).astype(ml_dtypes.bfloat16)
        shard.put(name, memoryview(values.reshape(-1).view(np.uint8)))
    shard.close()
    return folder


def in_quant(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a script in the quantizer's environment."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(ROOT / ".venvs/quant/bin/python"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def local_job(source: Path, *overrides: str) -> Job:
    return job("model=local", "model.name=x", f"model.path={source}", "runtime=transformers", *overrides)


def tree(name: str) -> list[modules.Module]:
    """The modules of a committed architecture."""
    config = json.loads((ROOT / f"data/architectures/{name}.json").read_text())
    return modules.from_tensors(architectures.tensors(config), config)


TINY = ("model=local", "model.name=tiny", "exempt=boundary", "hw=h100", "plan_only=true")


def tiny_job(source: Path, *overrides: str) -> Job:
    return job(*TINY, f"model.path={source}", *overrides)


def quantized(env: str, source: Path, folder: Path, *methods: str, overrides: Sequence[str] = ()) -> dict[str, Path]:
    """The artifacts by method, all made in one process."""
    sequences = folder / "sequences.json"
    sequences.write_text(json.dumps(np.random.default_rng(0).integers(0, 49152, (4, 64)).tolist()))
    files = []
    for method in methods:
        out = folder / method
        out.mkdir()
        wanted = tiny_job(source, f"method={method}", *overrides)
        inputs = {"source": str(source), "sequences": str(sequences)}
        Request(wanted, str(out), inputs, plan.make(wanted, source).ignore).write(out / "request.json")
        files.append(str(out / "request.json"))
    command = [str(ROOT / f".venvs/{env}/bin/python"), str(ROOT / "tests/support/layouts.py"), *files]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    return {method: folder / method / "artifact" for method in methods}
