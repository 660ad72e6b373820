"""Quantization as a stream: the tensors of the in-memory way, byte for byte, and what a killed job keeps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cluster import until
from conftest import ROOT, Cli
from hydra.core.config_store import ConfigStore
from test_bad_input import processes_with
from test_config import job

from qforge import architectures, plan
from qforge.checkpoint import Stored, Tensor, headers, read_json
from qforge.config import Job
from qforge.request import Request
from qforge.shards import Shard, fill

ConfigStore.instance().store(name="schema", node=Job)

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


def in_quant(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a script in the quantizer's environment."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(ROOT / ".venvs/quant/bin/python"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def given(source: Path, *overrides: str) -> Job:
    return job("model=local", "model.name=x", f"model.path={source}", "runtime=transformers", *overrides)


def test_every_tensor_is_the_in_memory_ways_byte_for_byte(model: Path, tmp_path: Path) -> None:
    dense = checkpoint(tmp_path / "dense", DENSE, model, files=3)
    moe = checkpoint(tmp_path / "moe", MOE, model, files=2)
    others = [(f"method={name}",) for name in ("fp8", "w8a8", "mxfp4", "nvfp4_llmc")]
    every = [("method=rtn", f"group_size={g}") for g in (32, 64, 128, -1)] + others
    cases = [
        *((dense, case) for case in every),
        (moe, every[0]),
        (moe, every[-1]),
        (model, every[1]),
        (model, every[4]),
    ]
    requests = []
    for number, (source, overrides) in enumerate(cases):
        out = tmp_path / str(number)
        out.mkdir()
        exempt = plan.make(given(source, *overrides), source).ignore
        Request(given(source, *overrides), str(out), {"source": str(source)}, exempt).write(out / "request.json")
        requests.append(out / "request.json")
    in_quant(ROOT / "tests" / "both_ways.py", *requests)
    for file, case in zip(requests, cases, strict=True):
        stream, memory = (file.parent / name / "artifact" for name in ("stream", "memory"))
        assert contents(stream) == contents(memory), case
        ours, theirs = (read_json(folder / "config.json")["quantization_config"] for folder in (stream, memory))
        assert sorted(ours.pop("ignore")) == sorted(theirs.pop("ignore")), case
        assert ours == theirs, case


def contents(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (t.dtype, t.shape, np.memmap(t.file, np.uint8, "r", t.offset, (t.nbytes,)).tobytes())
        for name, t in headers(folder).items()
    }


def test_a_job_that_was_killed_goes_on_after_its_finished_files(cli: Cli, model: Path, tmp_path: Path) -> None:
    large = {**DENSE, "hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 10}
    source = checkpoint(tmp_path / "source", large, model, files=24)
    overrides = (
        "model=local", "model.name=x", f"model.path={source}", "method=nvfp4_llmc", "stages=[quantize,inspect]",
        f"store={tmp_path / 'store'}",
    )  # fmt: skip
    command, _ = cli.command(*overrides)
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished = wait_for(lambda: list((tmp_path / "store" / "quantize").glob("*.shards/*.safetensors")))
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: not processes_with(str(tmp_path / "store")))  # the stage ends a little later
    assert not list((tmp_path / "store" / "quantize").glob("*/artifact/config.json"))
    made = {file.name: file.stat().st_ino for file in finished}
    done = cli.succeed(*overrides)
    after = {file.name: file.stat().st_ino for file in (done.folder / "artifact").glob("*.safetensors")}
    assert len(made) < len(after)
    assert {name: after[name] for name in made} == made
    assert done.json("inspect")["faults"] == []
    assert not list((tmp_path / "store" / "quantize").glob("*.shards"))


def wait_for(found: Callable[[], list[Path]]) -> list[Path]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if files := found():
            return files
        time.sleep(0.002)
    raise TimeoutError


def test_one_file_with_a_number_keeps_its_index(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Without it transformers finds no weights."""
    source = checkpoint(tmp_path / "source", DENSE, model, files=1)
    given = ("model=local", "model.name=small", f"model.path={source}", "method=rtn", "stages=[quantize,inspect]")
    artifact = cli.succeed(*given).folder / "artifact"
    index = read_json(artifact / "model.safetensors.index.json")["weight_map"]
    assert set(index.values()) == {"model-00001-of-00001.safetensors"}
    assert index.keys() == headers(artifact).keys()


def test_what_the_stream_cannot_do_is_refused_with_the_way_out(model: Path, tmp_path: Path) -> None:
    fused = tmp_path / "fused"
    shutil.copytree(model, fused)
    name = "model.layers.0.mlp.experts.down_proj"
    shard = Shard(fused / "more.safetensors", {name: Tensor("BF16", (2, 8, 8))})
    shard.open()
    shard.close()
    code = """if True:
        import sys
        from pathlib import Path
        from pydantic import TypeAdapter
        from qforge.methods.streaming import quantize
        from qforge.request import Refused, Request
        for file in sys.argv[1:]:
            request = TypeAdapter(Request).validate_json(Path(file).read_text())
            try:
                quantize(request.job, Path(request.inputs["source"]), Path(request.out), [], None)
            except Refused as refusal:
                print(refusal)"""
    observer = "+method.args.QuantizationModifier.weight_observer=mse"
    requests = []
    for number, (source, *overrides) in enumerate(((fused,), (model, observer))):
        requests.append(tmp_path / f"{number}.json")
        made = given(source, "method=rtn", *overrides)
        Request(made, str(tmp_path / "out"), {"source": str(source)}).write(requests[-1])
    said = [line for line in in_quant("-c", code, *requests).stdout.splitlines() if "WARNING" not in line]
    assert said[0].startswith(f"model: {name} holds the 2 experts of its layer in one tensor")
    assert said[1].startswith("method.args: observer=mse: only min-max scales")
    assert all("method.function=qforge.methods.llmcompressor:quantize" in line for line in said)


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    tensors = {"b": Tensor("U8", (3,)), "a": Tensor("BF16", (2, 2)), "c": Tensor("F32", ())}
    shard = Shard(tmp_path / "x.safetensors", tensors)
    shard.open()
    for name in tensors:
        shard.put(name, memoryview(name.encode() * tensors[name].nbytes))
    assert not shard.finished
    assert list(tmp_path.iterdir()) == [shard.partial]
    shard.close()
    assert shard.finished
    read = headers(tmp_path)
    assert {name: (t.dtype, t.shape) for name, t in read.items()} == {n: (t.dtype, t.shape) for n, t in tensors.items()}
    assert {name: t.read().tobytes() for name, t in read.items()} == {
        n: n.encode() * t.nbytes for n, t in tensors.items()
    }
    assert all(t.offset % 4 == 0 for name, t in read.items() if name == "c")
    assert not Shard(shard.file, {**tensors, "b": Tensor("U8", (4,))}).finished


def test_tensors_that_follow_one_another_are_written_at_once(tmp_path: Path) -> None:
    tensors = {"b": Tensor("U8", (3,)), "x": Tensor("F32", (1,)), "a": Tensor("U8", (2,)), "c": Tensor("U8", (4,))}
    shard = Shard(tmp_path / "x.safetensors", tensors)
    shard.open()
    with pytest.raises(AssertionError):
        shard.put_run(["b", "c"], memoryview(b"bbbcccc"))  # a lies between them
    shard.put_run(["b", "a", "c"], memoryview(b"bbbaacccc"))
    shard.close()
    read = {name: t.read().tobytes() for name, t in headers(tmp_path).items()}
    assert read == {"b": b"bbb", "x": bytes(4), "a": b"aa", "c": b"cccc"}


def test_a_source_that_ends_too_early_is_named(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"123")
    with pytest.raises(EOFError, match="short: ends before 2 bytes that its header promises"):
        fill(memoryview(bytearray(4)), Stored("U8", (4,), tmp_path / "short", 1))
