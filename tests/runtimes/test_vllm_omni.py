"""vLLM-Omni's command line and environment, and that nothing of a server stays in shared memory."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command import ROOT
from support.jobs import job

from qforge.runtimes import cpu_torch, request_ids, shared_memory, vllm_omni
from qforge.runtimes.request_ids import Marked

HOLD = """from multiprocessing.shared_memory import SharedMemory
buffer = SharedMemory(create=True, size=9)
print(buffer.name, flush=True)
input()
buffer.unlink()"""


def test_its_own_command_is_started_with_the_file_of_the_plan() -> None:
    made = vllm_omni.arguments(
        job("model=qwen3_omni_30b", "hw=h100", "runtime=vllm_omni"), Path("/m"), Path("/d.yaml"), 8000
    )
    assert made[:3] == ["serve", "/m", "--omni"]
    options = dict(zip(made[3::2], made[4::2], strict=True))
    assert options["--deploy-config"] == "/d.yaml"
    assert options["--stage-init-timeout"] == options["--init-timeout"] == "1800"
    parts = [value for name, value in zip(made[3::2], made[4::2], strict=True) if name == "--middleware"]
    assert parts == ["qforge.runtimes.request_ids.Marked", "qforge.runtimes.server_key.ServerKey"]


def test_its_plugins_are_switched_on_and_no_other() -> None:
    gpu = vllm_omni.environ(job("model=qwen3_omni_30b", "hw=h100", "runtime=vllm_omni"), "key")
    assert gpu["VLLM_PLUGINS"] == "vllm_omni_register_models"
    assert "PYTHONPATH" not in gpu
    cpu = vllm_omni.environ(job("hw=cpu", "runtime=vllm_omni_cpu", "+runtime.environ.PYTHONPATH=/mine"), "key")
    assert cpu["VLLM_PLUGINS"] == "vllm_omni_register_models,qforge_omni_cpu"
    assert cpu["PYTHONPATH"] == os.pathsep.join([str(cpu_torch.SITE), "/mine"])
    assert cpu["VLLM_CPU_INT4_W4A8"] == "0"


def test_never_in_the_environment_of_plain_vllm() -> None:
    """Installed there, its classes would replace vLLM's."""
    for file in (ROOT / "envs").glob("*.txt"):
        if not file.stem.endswith(".overrides"):
            speaks = any(line.startswith("vllm-omni==") for line in file.read_text().splitlines())
            assert speaks == file.stem.startswith("vllm_omni"), file


def test_every_request_bears_the_mark_whatever_the_client_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(request_ids.VARIABLE, "qforge7")
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    headers = [(b"host", b"x"), (b"x-request-id", b"theirs")]
    asyncio.run(Marked(app)({"type": "http", "headers": headers}, None, None))
    asyncio.run(Marked(app)({"type": "lifespan"}, None, None))
    sent = dict(seen[0]["headers"])
    assert sent[b"host"] == b"x"
    assert sent[b"x-request-id"].startswith(b"qforge7-")
    assert seen[1] == {"type": "lifespan"}


def test_what_a_server_leaves_in_shared_memory_is_freed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    names = [
        "chatcmpl-qforge7-1_0_3",
        "shm_chatcmpl-qforge7-1_0_3_lockfile.lock",
        "chatcmpl-other_0_3",
        "psm_1",
        "psm_2",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert shared_memory.free("qforge7", [tmp_path / "psm_1", tmp_path / "psm_gone"]) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["chatcmpl-other_0_3", "psm_2"]


def test_buffers_are_known_by_who_has_mapped_them() -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdin=-1, stdout=-1, text=True, start_new_session=True)
    assert child.stdin
    assert child.stdout
    name = child.stdout.readline().strip()
    assert shared_memory.held(child.pid) == {shared_memory.FOLDER / name}
    child.communicate("\n")
    assert shared_memory.held(child.pid) == set()


def test_the_plugin_for_cpus_is_an_entry_point() -> None:
    """vLLM-Omni looks for it there; the environment has qforge installed."""
    import tomllib

    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
        "vllm_omni.platform_plugins"
    ]
    module, _, function = entries["qforge_omni_cpu"].partition(":")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert f"def {function}(" in source
    assert json.dumps(list(entries)) == json.dumps([vllm_omni.ON_CPU])
