"""Errors provoked with the vLLM that runs here, on damaged checkpoints as users have them; each ends with its diagnosis."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.command import Cli, Finished

from qforge.config.job import Engine, Hardware, Job, Runtime, Serve, Vendor
from qforge.envs import managed, process
from qforge.json_files import read_json
from qforge.models.checkpoint import headers
from qforge.runtimes import vllm
from qforge.runtimes.diagnose import PATTERNS, ServerFailed

pytestmark = pytest.mark.real
EVIDENCE = {entry["id"]: entry["evidence"] for entry in json.loads(PATTERNS.read_text())}
RAN = "ran: CPU 0.32"
Doctor = Callable[[Path], dict[str, Any]]  # from the checkpoint's folder to changes of its config.json

NVFP4 = {
    "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": {
        "targets": ["Linear"], "format": "nvfp4-pack-quantized",
        "weights": {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16},
    }},
}  # fmt: skip


MODELOPT = {
    "quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "ignore": ["lm_head"],
    "config_groups": {"group_0": {
        "targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 16},
    }},
    "producer": {"name": "modelopt", "version": "0.47.0"},
}  # fmt: skip


def missing_shard(folder: Path) -> dict[str, Any]:
    names = list(headers(folder))
    second = "model-00002-of-00002.safetensors"
    index = {"weight_map": {name: second if i % 2 else "model.safetensors" for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)  # the folder is of links
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return {}


def quantization(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"quantization_config": {**read_json(folder / "config.json")["quantization_config"], **changes}}


def group_128(folder: Path) -> dict[str, Any]:
    found = quantization(folder)
    for group in found["quantization_config"]["config_groups"].values():
        group["weights"]["group_size"] = 128  # 576 inputs
    return found


@dataclass
class Case:
    """How it is provoked, and what must be said. `packed`: on the INT4 artifact instead of the bf16 model."""

    id: str | None
    said: str
    args: dict[str, Any] = field(default_factory=dict)
    doctor: Doctor = lambda folder: {}
    packed: bool = False
    emulated: bool = False
    seconds: int = 300
    kv_gib: str = "1"
    during: Callable[[Path, int], None] = lambda log, port: None  # in a thread of its own while the server starts


def engine_of(log: Path) -> psutil.Process:
    """The engine of the server that writes to `log`, as soon as it has begun to load."""
    deadline = time.monotonic() + 200
    while "Initializing a V1 LLM engine" not in (text := log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return psutil.Process(int(text.partition("(EngineCore pid=")[2].partition(")")[0]))


def stop_all(log: Path, port: int) -> None:
    """As a debugger or a full cgroup does."""
    os.killpg(os.getpgid(engine_of(log).pid), signal.SIGSTOP)


def take(log: Path, port: int) -> None:
    """Another program takes the port after qforge has looked and before vLLM has bound it, and keeps it until vLLM ends."""
    while not log.exists():
        time.sleep(0.05)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        while "Address already in use" not in log.read_text():
            time.sleep(0.2)


CASES = {
    "hung": Case(None, "VLLM::EngineCore stopped", seconds=120, during=stop_all),
    "dtype": Case("dtype_choice", "invalid choice: 'bf16'", {"dtype": "bf16"}),
    "kv dtype": Case("flag_choice", "--kv-cache-dtype: invalid choice", {"kv_cache_dtype": "bf16"}),
    "option": Case("flag_unknown", "unrecognized arguments: --max-modellen", {"max_modellen": 5}),
    "context": Case("max_model_len", "(100000) is greater than the derived", {"max_model_len": 100_000}),
    "architecture": Case(
        "arch_unsupported", "NovelForCausalLM", doctor=lambda _: {"architectures": ["NovelForCausalLM"]}
    ),
    "method": Case("unknown_quant_method", "hqq2", doctor=lambda _: {"quantization_config": {"quant_method": "hqq2"}}),
    "wrong method": Case("quant_arg_mismatch", "does not match", {"quantization": "awq"}, packed=True),
    "shard": Case("missing_shard", "model-00002-of-00002.safetensors", doctor=missing_shard),
    "unpacked": Case(
        "no_module_or_param", "weight_packed", doctor=lambda _: {"quantization_config": NVFP4}, emulated=True
    ),
    "unpacked, ModelOpt": Case(
        "shape_assert", "never packed", doctor=lambda _: {"quantization_config": MODELOPT}, emulated=True
    ),
    "no kernel": Case(
        "forced_nvfp4_kernel", "Marlin FP4 not available", doctor=lambda _: {"quantization_config": NVFP4}
    ),
    "partial qkv": Case(
        "fused_shards_ct", "qkv_proj", packed=True,
        doctor=lambda folder: quantization(folder, ignore=["lm_head", "re:.*q_proj"]),
    ),
    "group": Case("tp_group", "not divisible by group_size=128", packed=True, doctor=group_128),
    "KV": Case(
        "kv_too_small", "GiB KV cache is needed", {"max_model_len": 4_000_000},
        doctor=lambda _: {"max_position_embeddings": 4_000_000},
    ),
    "no KV": Case("no_kv_memory", "No available memory", {"gpu_memory_utilization": 0.001}, kv_gib="0"),
    "port": Case("port_in_use", "Address already in use", during=take),
    "killed": Case("process_killed", "ended without a word", during=lambda log, port: engine_of(log).kill()),
}  # fmt: skip


def provoke(case: Case, source: Path, folder: Path, environment: process.Environment) -> ServerFailed:
    """Start a server that cannot start, by qforge's own code."""
    checkpoint, log = folder / "checkpoint", folder / "serve.log"
    checkpoint.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            (checkpoint / file.name).symlink_to(file)
    config = {**read_json(source / "config.json"), **case.doctor(checkpoint)}
    (checkpoint / "config.json").unlink()
    (checkpoint / "config.json").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = {"max_model_len": 2048, "enforce_eager": True, **case.args}
    environ = {"VLLM_CPU_KVCACHE_SPACE": case.kv_gib}
    runtime = Runtime(
        "vllm_cpu", Engine.vllm, [Vendor.cpu], "vllm_cpu", args=args, environ=environ, start_timeout=case.seconds
    )
    job = Job(hw=Hardware("cpu", Vendor.cpu), runtime=runtime, serve=Serve(port=port))
    threading.Thread(target=case.during, args=(log, port), daemon=True).start()
    with (
        pytest.raises(ServerFailed) as failed,
        vllm.serving(job, case.emulated, checkpoint, environment, log, lambda line: None),
    ):
        pass
    return failed.value


@pytest.fixture(scope="module")
def provoked(
    cli: Cli, model: Path, rtn: Finished, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[ServerFailed]]]:
    """All of them, two at a time beside the one that hangs."""
    environment, folder = managed.managed("vllm_cpu"), tmp_path_factory.mktemp("provoked")
    packed = cli.store / "quantize" / rtn.json("quantize")["key"] / "artifact"
    with ThreadPoolExecutor(3) as pool:
        yield {
            name: pool.submit(provoke, case, packed if case.packed else model, folder / name, environment)
            for name, case in CASES.items()
        }


@pytest.mark.parametrize("name", CASES)
def test_what_vllm_refuses_is_diagnosed(name: str, provoked: dict[str, Future[ServerFailed]]) -> None:
    case, failure = CASES[name], provoked[name].result()
    found = failure.diagnosis
    assert (found.id if found else None) == case.id, failure
    assert case.said in str(failure)
    assert "last lines of its log:" in str(failure)
    assert "resource_tracker" not in str(failure), "what comes after them says nothing"
    log = re.search(r"\(log: (.*)\)$", str(failure))
    assert log
    assert "nanobind" not in Path(log[1]).read_text(), "in no process"
    if found:
        assert RAN in EVIDENCE[found.id]
        assert f"cause: {found.cause}\n  remedy: {found.remedy}" in str(failure)
