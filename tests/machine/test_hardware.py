"""What a machine has, from what its tools really printed; and the files of conf/hw against the data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.command import ROOT
from support.nvml import Card, ask, driver

from qforge.machine import hardware
from qforge.machine.hardware import Gpu
from qforge.plan import support_matrix

FILES = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / "conf" / "hw").glob("*.yaml")}

H200 = Card("NVIDIA H200", "9.0", 143771)  # on one, 2026-11-21
RTX_PRO_6000 = Card(
    "NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0", 97887
)  # in a vLLM issue on DeepSeek on SM120
THOR = Card("NVIDIA Thor", "11.0", None)  # name and capability as developers report them
H100_PCIE = Card("NVIDIA H100 PCIe", "9.0", 81559)

# rocm-smi --json on four MI300A, in archspec's tests (tests/gpu, "real rocm-smi output"), two of the cards
MI300A = json.dumps(
    {
        "card0": {
            "Device Name": "AMD Instinct MI300A", "Device ID": "0x74a0", "Device Rev": "0x00", "Subsystem ID": "0x74a0",
            "GUID": "46363", "Card Series": "AMD Instinct MI300A", "Card Model": "0x74a0",
            "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]", "Card SKU": "N/A", "Node ID": "4", "GFX Version": "gfx942",
        },
        "card1": {
            "Device Name": "AMD Instinct MI300A", "Device ID": "0x74a0", "Device Rev": "0x00", "Subsystem ID": "0x74a0",
            "GUID": "46186", "Card Series": "AMD Instinct MI300A", "Card Model": "0x74a0",
            "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]", "Card SKU": "N/A", "Node ID": "5", "GFX Version": "gfx942",
        },
        "system": {"Driver version": "6.16.13"},
    }
)  # fmt: skip
# an MI300X in the same form: its product is what AMD's ROCm blogs show, its memory what rocm-smi reports in bytes
MI300X = json.dumps(
    {
        "card0": {
            "Card Series": "AMD Instinct MI300X OAM", "Card Model": "0x74a1", "Card SKU": "MI3SRIOV", "GFX Version": "gfx942",
            "VRAM Total Memory (B)": "206141652992",
        }
    }
)  # fmt: skip
# amd-smi static --asic --vram --json on an MI300X, shortened (a public test suite's fixture; older ROCm prints the list alone)
AMD_SMI = [
    {
        "gpu": 0,
        "asic": {"market_name": "AMD Instinct MI300X", "device_id": "0x74a1", "target_graphics_version": "gfx942"},
        "vram": {"type": "HBM3", "size": {"value": 196592, "unit": "MB"}},
    }
]


def test_rocm_smi_and_amd_smi() -> None:
    assert hardware.parse_rocm_smi(MI300A) == [Gpu("AMD Instinct MI300A", "gfx942", None)] * 2
    assert hardware.parse_rocm_smi(MI300X) == [Gpu("AMD Instinct MI300X OAM", "gfx942", 206141652992 / 2**30)]
    assert hardware.parse_rocm_smi("") == []
    expected = [Gpu("AMD Instinct MI300X", "gfx942", 196592 / 1024)]
    assert hardware.parse_amd_smi(json.dumps(AMD_SMI)) == expected
    assert hardware.parse_amd_smi(json.dumps({"gpu_data": AMD_SMI})) == expected


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without the vendors' tools, on which a test puts programs that print what the real ones printed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def tool(folder: Path, name: str, output: str, code: int = 0) -> None:
    (folder / f"{name}.txt").write_text(output)
    (folder / name).write_text(f"#!/bin/sh\n/bin/cat {folder / name}.txt\nexit {code}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "output", "file"),
    [
        ("rocm-smi", MI300X, "mi300x"),
        ("amd-smi", json.dumps(AMD_SMI), "mi300x"),
    ],
)
def test_the_file_of_this_machine_is_found(tools: Path, name: str, output: str, file: str) -> None:
    tool(tools, name, output)
    assert hardware.detect() == file


COMPILED = pytest.mark.skipif(shutil.which("cc") is None, reason="NVIDIA's driver library is compiled for this test")
DETECT = "from qforge.machine import hardware; print(hardware.detect())"


@COMPILED
@pytest.mark.parametrize(
    ("cards", "file"), [([H200], "h200"), ([RTX_PRO_6000] * 4, "rtx_pro_6000"), ([THOR], "thor"), ([], "cpu")]
)
def test_the_file_of_nvidias_gpus_is_found(tmp_path: Path, cards: list[Card], file: str) -> None:
    assert ask(DETECT, driver(tmp_path, *cards)).stdout == f"{file}\n"


def test_without_a_gpu_it_is_the_cpu(tools: Path) -> None:
    assert hardware.detect() == "cpu"


@COMPILED
def test_an_unknown_gpu_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    refusal = ask(DETECT, driver(tmp_path, H100_PCIE)).stderr
    assert "hw=auto: no file in conf/hw is for NVIDIA H100 PCIe (9.0, 80 GiB); use hw=NAME" in refusal
    assert "conf/hw/h100.yaml or conf/hw/h200.yaml with its own product, capability" in refusal


@COMPILED
def test_different_gpus_are_a_choice_of_the_user(tmp_path: Path) -> None:
    refusal = ask(DETECT, driver(tmp_path, H200, RTX_PRO_6000)).stderr
    assert "this machine has different GPUs" in refusal
    assert "use hw=h200 or hw=rtx_pro_6000" in refusal


@COMPILED
def test_hw_auto_on_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), "hw=auto", "--cfg", "job"]

    def run(*cards: Card) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **driver(tmp_path, *cards)}
        return subprocess.run(command, capture_output=True, text=True, env=env)

    here = run(H200)
    assert "capability: '9.0'" in here.stdout
    assert "env: vllm\n" in here.stdout
    assert "env: vllm_cpu\n" in run().stdout  # the file's own choice of a runtime holds
    unknown = run(H100_PCIE)
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("refused: hw=auto: no file in conf/hw is for NVIDIA H100 PCIe")


def test_the_cpu_is_read_from_the_machine() -> None:
    here = hardware.cpu()
    assert here.cores >= 1
    assert here.memory_gib > 1
    assert here.instructions in ("amx", "avx512", "avx2")


def test_the_instructions_of_a_cpu() -> None:
    assert hardware.instructions("flags\t\t: avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8") == "amx"
    assert hardware.instructions("flags\t\t: avx2 avx512f avx512dq") == "avx512"
    assert hardware.instructions("flags\t\t: sse4_2 avx avx2") == "avx2"
    assert hardware.instructions("") == "avx2"


def test_the_files_describe_every_platform_of_the_data() -> None:
    described = {hw["capability"] for hw in FILES.values() if "capability" in hw}
    assert described == set(support_matrix.facts()["sets"]["gpu"])
    gpus = {name: hw for name, hw in FILES.items() if name != "cpu"}
    products = [product for hw in gpus.values() for product in hw["product"]]
    assert len(set(products)) == len(products)
    for name, hw in gpus.items():
        assert hw["name"] == name
        assert hw["memory_gib"] > 0
        assert hw["bandwidth_gbs"] > 100
        assert set(hw["tflops"]) <= {"bf16", "fp8", "fp4", "int8"}
        assert hw["tflops"]["bf16"] <= hw["tflops"].get("fp8", 1e9) <= hw["tflops"].get("fp4", 1e9)
        assert "sheet" in (ROOT / "conf" / "hw" / f"{name}.yaml").read_text()  # where the numbers are from
