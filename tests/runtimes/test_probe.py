"""What a runtime is asked before it is relied on, and what it is refused for."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.command import Cli, Finished

from qforge.config.job import Engine, Hardware, Job, Runtime, Vendor
from qforge.config.method import Method
from qforge.envs import managed
from qforge.envs.process import Environment
from qforge.runtimes import probe

HERE = Environment(Path(sys.executable), "tests", None)
# As an H200 answers; the form is that of the real answers below.
H200: dict[str, Any] = {
    "python": "3.12.3",
    "versions": {"vllm": "0.26.0"},
    "device": {"platform": "nvidia", "name": "NVIDIA H200", "capability": "9.0", "memory_gib": 139.8, "count": 1},
    "vllm": {"built_for": "cuda", "methods": ["gptq", "compressed-tensors"]},
}


def job(vendor: Vendor, capability: str | None = None, name: str = "x") -> Job:
    runtime = Runtime("existing", Engine.vllm, [vendor], python="/opt/vllm/bin/python")
    return Job(
        hw=Hardware(name, vendor, capability=capability), runtime=runtime, method=Method("nvfp4", "", "nvfp4_modelopt")
    )


@pytest.fixture(scope="module")
def vllm_cpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Asked where a library speaks after the answer."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import atexit\natexit.register(print, 'nanobind: leaked 64 types!')\n")
    return probe.ask(replace(managed.managed("vllm_cpu"), environ={"PYTHONPATH": str(folder)}), Engine.vllm)


@pytest.mark.parametrize(
    ("versions", "vllm"),
    [
        ({"vllm": "0.26.0"}, "0.26.0"),
        ({"vllm-cpu": "0.32.0+cpu"}, "0.32.0+cpu"),
        ({"vllm": "0.1.dev1+g1503b5b"}, None),  # built from a checkout without tags
        ({"transformers": "5.17.0"}, None),
    ],
)
def test_the_vllm_that_is_there_says_its_version(versions: dict[str, str], vllm: str | None) -> None:
    assert probe.vllm_version({"versions": versions}) == vllm


def test_the_cpu_build_says_what_it_is(vllm_cpu: dict[str, Any]) -> None:
    assert vllm_cpu["versions"]["vllm-cpu"] == "0.32.0"
    assert {"torch", "transformers", "compressed-tensors"} <= set(vllm_cpu["versions"])
    assert vllm_cpu["device"]["platform"] == "cpu"
    assert vllm_cpu["vllm"]["built_for"] == "cpu"
    assert {"compressed-tensors", "modelopt", "gptq"} <= set(vllm_cpu["vllm"]["methods"])
    assert set(vllm_cpu) == set(H200)
    probe.check(job(Vendor.cpu), vllm_cpu, "modelopt")
    assert "vllm-cpu 0.32.0" in probe.summary(vllm_cpu)


def test_kernels_that_do_not_load_are_a_fault(tmp_path: Path) -> None:
    """vLLM only warns, serves without them, and ends in something else. Seen where the system has no libnuma."""
    (tmp_path / "libnuma.so.1").touch()
    found = probe.ask(replace(managed.managed("vllm_cpu"), environ={"LD_LIBRARY_PATH": str(tmp_path)}), Engine.vllm)
    assert found["fault"] == f"ImportError: {tmp_path}/libnuma.so.1: file too short"


def test_what_it_does_not_have_is_refused(vllm_cpu: dict[str, Any]) -> None:
    where = "runtime.python=/opt/vllm/bin/python"
    with pytest.raises(
        ValueError, match=f"{where}: vLLM 0.32.0 there does not read checkpoints with quant_method hqq2"
    ):
        probe.check(job(Vendor.cpu), vllm_cpu, "hqq2")
    with pytest.raises(
        ValueError, match=f"hw=h100 {where}: its vLLM runs on cpu, the plan is for nvidia; use a runtime"
    ):
        probe.check(job(Vendor.nvidia, "9.0", "h100"), vllm_cpu, None)


def test_another_gpu_than_planned_is_refused() -> None:
    probe.check(job(Vendor.nvidia, "9.0"), H200, "compressed-tensors")
    with pytest.raises(ValueError, match=r"hw=b200: the plan is for nvidia 10.0, .* sees NVIDIA H200 \(nvidia 9.0\)"):
        probe.check(job(Vendor.nvidia, "10.0", "b200"), H200, None)
    with pytest.raises(ValueError, match=r"vLLM 0.26.0 there does not read checkpoints with quant_method modelopt"):
        probe.check(job(Vendor.nvidia, "9.0"), H200, "modelopt")
    rocm = copy.deepcopy(H200)
    rocm["device"] |= {"platform": "amd", "capability": "gfx90a", "name": "MI250X"}
    with pytest.raises(ValueError, match=r"the plan is for amd gfx942, .* sees MI250X"):
        probe.check(job(Vendor.amd, "gfx942"), rocm, None)


def test_an_interpreter_without_the_engine() -> None:
    found = probe.ask(HERE, Engine.vllm)
    assert found["fault"] == "ModuleNotFoundError: No module named 'vllm'"
    with pytest.raises(ValueError, match=r"runtime.python=.*: vllm cannot be imported there \(ModuleNotFoundError"):
        probe.check(job(Vendor.cpu), found, None)


def test_an_interpreter_that_crashes(tmp_path: Path) -> None:
    """An engine that kills its process while it is imported, as one built for another CPU does."""
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'guard' not in str(sys.orig_argv): os.abort()\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    found = probe.ask(Environment(python, "broken", None), Engine.vllm)
    assert found["fault"].startswith("exit code 134")


def test_it_is_asked_before_anything_is_quantized(cli: Cli, model: Path) -> None:
    done = cli("method=rtn", "calib.seed=99", "runtime=existing", f"runtime.python={sys.executable}")
    assert done.code == 2
    assert f"runtime.python={sys.executable}: vllm cannot be imported there" in done.output
    assert "use a runtime with an environment of its own" in " ".join(done.output.split())
    assert not (done.folder / "quantize.log").exists()


def test_the_first_runtime_that_works_is_taken(cli: Cli, rtn: Finished) -> None:
    """A Python without vLLM, then a runtime that has what it takes; the terminal and attempts.json say so."""
    done = cli.succeed(
        "method=rtn", "runtime=[existing,transformers]", f"runtime.python={sys.executable}",
        "stages=[quantize,evaluate]", "eval=quick", "eval.windows=1", "eval.tasks=[]",
    )  # fmt: skip
    assert "runtime=existing method=rtn refused:" in done.output
    assert "next: runtime=transformers" in done.output
    first, second = json.loads((done.folder / "attempts.json").read_text())
    assert (first["runtime"], first["outcome"]) == ("existing", "refused")
    assert "vllm cannot be imported there" in first["why"]
    assert (second["runtime"], second["outcome"]) == ("transformers", "taken")
    assert done.json("evaluate")["through"] == "transformers"
    assert done.json("probe")["versions"]["transformers"] == "5.17.0"
    assert (done.folder / "attempt-1" / "plan.json").exists()
