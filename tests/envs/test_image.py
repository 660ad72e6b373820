"""qforge in an image of its own, made from the Containerfile: it plans, and takes a model to a served answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.command import QUICK, ROOT, Finished

from qforge.envs import containers

pytestmark = pytest.mark.container

BASE = "docker.io/library/python:3.11-slim"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tool() -> Run:
    """podman or docker, whichever is here."""
    name = next(filter(shutil.which, containers.TOOLS))
    return lambda *arguments: subprocess.run([name, *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def base(tool: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Containerfile's base; where it cannot be pulled, Debian by debootstrap, with the certificates trusted here."""
    if tool("pull", BASE).returncode == 0:
        yield BASE
        return
    folder, name = tmp_path_factory.mktemp("debian"), f"localhost/qforge-base-{os.getpid()}"
    packages = "ca-certificates,python3-dev,python3-venv,util-linux"
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder)], check=True)
    shutil.copyfile(CERTIFICATES, folder / CERTIFICATES.relative_to("/"))
    archive = folder.with_suffix(".tar")
    subprocess.run(["tar", "--create", "--one-file-system", "--directory", folder, "--file", archive, "."], check=True)
    shutil.rmtree(folder)
    assert tool("import", str(archive), name).returncode == 0
    yield name
    tool("rmi", "--force", name)


@pytest.fixture(scope="module")
def image(tool: Run, base: str) -> Iterator[str]:
    name = f"localhost/qforge-test-{os.getpid()}"
    built = tool(
        "build",
        "--network=host",
        "--build-arg",
        f"BASE={base}",
        "--tag",
        name,
        "--file",
        f"{ROOT}/Containerfile",
        f"{ROOT}",
    )
    assert built.returncode == 0, built.stdout + built.stderr
    yield name
    tool("rmi", "--force", name)


@pytest.fixture(scope="module")
def qforge(tool: Run, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Finished]]:
    """run.py in a new container each time; environments and store last as long as the tests of this file."""
    outputs, names = (
        tmp_path_factory.mktemp("outputs"),
        [f"qforge-test-{os.getpid()}-{part}" for part in ("venvs", "store")],
    )
    volumes = [
        f"--volume={names[0]}:/qforge/.venvs",
        f"--volume={names[1]}:/qforge/.store",
        f"--volume={outputs}:/qforge/outputs",
    ]
    # what this machine needs to reach an index
    here = [f"--env={key}" for key in ("SSL_CERT_FILE", "PIP_FIND_LINKS", "UV_TORCH_BACKEND") if key in os.environ]
    links = Path(os.environ.get("PIP_FIND_LINKS", ""))
    here += [f"--volume={links}:{links}:ro"] if links.is_absolute() else []

    def run(*overrides: str) -> Finished:
        done = tool("run", "--rm", "--network=host", "--shm-size=1g", *here, *volumes, image, "run.py", *overrides)
        folder = (
            outputs / Path(done.stdout.splitlines()[-1]).relative_to("/qforge/outputs")
            if done.returncode == 0
            else outputs
        )
        return Finished(done.returncode, done.stdout + done.stderr, folder)

    yield run
    for name in names:
        tool("volume", "rm", "--force", name)


def test_it_plans_at_once(tool: Run, image: str) -> None:
    """With no volume, no network and no more than a container is given."""
    done = tool("run", "--rm", "--network=none", image, "run.py", "method=rtn", "plan_only=true")
    assert done.returncode == 0, done.stderr
    assert "113.1 MB, bf16 269.0 MB" in done.stdout
    assert "runtime" in tool("run", "--rm", "--network=none", image).stdout, "the options, where nothing is asked for"


def test_it_quantizes_serves_and_goes_on_from_its_volumes(qforge: Callable[..., Finished]) -> None:
    asked = ("method=rtn", *QUICK, "stages=[quantize,inspect,serve,bench,report]")
    done = qforge(*asked)
    assert done.code == 0, done.output
    print(done.output)
    assert "making quant" in done.output
    assert done.json("serve")["canary"]["same_twice"]
    assert done.json("bench")["runs"]["1"]
    assert (done.folder / "artifact" / "model.safetensors").stat().st_size > 10**8
    again = qforge(*asked)
    assert again.code == 0, again.output
    assert "making" not in again.output
    assert again.output.count("reused") >= 4
