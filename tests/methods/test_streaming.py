"""Quantization as a stream: the tensors of the in-memory way, byte for byte, and what a killed job keeps."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import DENSE, MOE, checkpoint, in_quant, local_job
from support.command import ROOT, Cli
from support.processes import processes_with, until, wait_for

from qforge.envs.request import Request
from qforge.json_files import read_json
from qforge.models.checkpoint import Stored, Tensor, headers
from qforge.models.shards import Shard, fill
from qforge.plan import plan


def test_every_tensor_is_the_in_memory_ways_byte_for_byte(model: Path, tmp_path: Path) -> None:
    dense = checkpoint(tmp_path / "dense", DENSE, model, files=3)
    moe = checkpoint(tmp_path / "moe", MOE, model, files=2)
    others = [(f"method={name}",) for name in ("fp8", "w8a8", "mxfp4", "nvfp4_llmc")]
    every = [("method=rtn", f"group_size={g}") for g in (32, 64, 128, -1)] + others
    mix = (
        "method=mixed",
        "method.formats.mlp=rtn:32",
        "+method.formats.down_proj=nvfp4_llmc",
        "+method.formats.o_proj=bf16",
    )
    cases = [
        (dense, mix),
        (moe, ("method=mixed", "method.formats.expert=rtn:32", "method.formats.attention=w8a8")),
        *((dense, case) for case in every),
        (moe, every[0]),
        (moe, (*every[-1], "unservable=measure")),  # transformers, which the job names, scores such a mixture wrongly
        (model, every[1]),
        (model, every[4]),
    ]
    requests = []
    for number, (source, overrides) in enumerate(cases):
        out = tmp_path / str(number)
        out.mkdir()
        planned = plan.make(local_job(source, *overrides), source)
        asked = Request(local_job(source, *overrides), str(out), {"source": str(source)}, planned.ignore, planned.kept)
        asked.write(out / "request.json")
        requests.append(out / "request.json")
    in_quant(ROOT / "tests" / "support" / "both_ways.py", *requests)
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


def test_one_file_with_a_number_keeps_its_index(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Without it transformers finds no weights."""
    source = checkpoint(tmp_path / "source", DENSE, model, files=1)
    given = ("model=local", "model.name=small", f"model.path={source}", "method=rtn", "stages=[quantize,inspect]")
    artifact = cli.succeed(*given).folder / "artifact"
    index = read_json(artifact / "model.safetensors.index.json")["weight_map"]
    assert set(index.values()) == {"model-00001-of-00001.safetensors"}
    assert index.keys() == headers(artifact).keys()


def test_what_the_stream_cannot_do_is_refused_with_the_way_out(model: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from pydantic import TypeAdapter
        from qforge.envs.request import Refused, Request
        from qforge.methods.streaming import quantize
        request = TypeAdapter(Request).validate_json(Path(sys.argv[1]).read_text())
        try:
            quantize(request.job, Path(request.inputs["source"]), Path(request.out), [], None)
        except Refused as refusal:
            print(refusal)"""
    made = local_job(model, "method=rtn", "+method.args.QuantizationModifier.weight_observer=mse")
    Request(made, str(tmp_path / "out"), {"source": str(model)}).write(tmp_path / "request.json")
    lines = in_quant("-c", code, tmp_path / "request.json").stdout.splitlines()
    (message,) = [line for line in lines if "WARNING" not in line]
    assert message.startswith("method.args: observer=mse: only min-max scales")
    assert "method.function=qforge.methods.llmcompressor:quantize" in message


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
