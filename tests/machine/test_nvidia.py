"""NVIDIA's GPUs through nvidia-ml-py, with a driver library that answers as the real ones did."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.nvml import Card, ask, driver

from qforge.machine import nvidia

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the driver of these tests is compiled")

H200 = Card("NVIDIA H200", "9.0", 143771, used=1024, watts=70.5)  # name, capability, memory: on one, 2026-11-21
THOR = Card("NVIDIA Thor", "11.0", None, watts=None)  # a Jetson's memory is the machine's
TWO = (H200, Card("NVIDIA H200", "9.0", 143771, used=2048, watts=100.0))


def said(code: str, environ: dict[str, str]) -> str:
    done = ask(f"from qforge.machine import hardware, identity, nvidia; print({code})", environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_a_gpu_tells_and_what_it_does_not(tmp_path: Path) -> None:
    environ = driver(tmp_path, H200, THOR)
    first = nvidia.Device("NVIDIA H200", "9.0", 143771 / 1024, "580.95.05")
    second = nvidia.Device("NVIDIA Thor", "11.0", None, "580.95.05")
    assert said("nvidia.devices()", environ) == str([first, second])
    assert said("identity.machine()['gpus']", environ) == str(
        ["NVIDIA H200, 143771 MiB, 580.95.05", "NVIDIA Thor, [N/A], 580.95.05"]
    )


@pytest.mark.parametrize(
    ("visible", "load"),
    [
        (None, nvidia.Load(3.0, 170.5)),
        ("0", nvidia.Load(1.0, 70.5)),
        ("1,0", nvidia.Load(3.0, 170.5)),
        ("GPU-1", nvidia.Load(2.0, 100.0)),
        ("1,7,0", nvidia.Load(2.0, 100.0)),  # CUDA stops at what does not exist
        ("", nvidia.Load(None, None)),
        ("-1", nvidia.Load(None, None)),
    ],
)
def test_the_load_is_that_of_the_visible_gpus(tmp_path: Path, visible: str | None, load: nvidia.Load) -> None:
    environ = driver(tmp_path, *TWO) | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert said("nvidia.load()", environ) == str(load)


def test_what_one_gpu_does_not_tell_is_not_added_up(tmp_path: Path) -> None:
    assert said("nvidia.load()", driver(tmp_path, H200, THOR)) == str(nvidia.Load(None, None))


def test_without_a_driver_or_with_one_that_does_not_work(tmp_path: Path) -> None:
    for environ in ({"LD_LIBRARY_PATH": "", "PATH": ""}, driver(tmp_path)):
        assert said("(nvidia.devices(), nvidia.load())", environ) == str(([], nvidia.Load(None, None)))


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA GPU here")
def test_a_gpu_tells_what_it_draws() -> None:
    found = nvidia.load()
    assert found.memory_gib
    assert found.watts
