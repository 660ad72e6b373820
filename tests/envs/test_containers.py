"""A runtime in a container image: what is refused, what is told the tool, and a real image where a tool is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
from support.command import QUICK, Cli, Finished
from support.jobs import job

from qforge.config.job import Engine
from qforge.config.places import ROOT
from qforge.envs import containers, interpreters, managed, process
from qforge.pipeline import attempts
from qforge.runtimes import probe

SECRET = "the-key-of-the-server"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    containers.find.cache_clear()
    return tmp_path


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_no_tool(tools: Path) -> None:
    with pytest.raises(ValueError, match=r"runtime.container=x: neither podman nor docker is on PATH; install one"):
        containers.find("x")


def test_no_image_says_what_each_tool_said(tools: Path) -> None:
    tool(tools, "podman", "echo 'Error: x: image not known' >&2; exit 125")
    tool(tools, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    said = (
        "podman: Error: x: image not known; docker: Cannot connect to the Docker daemon); get it with `podman pull x`"
    )
    with pytest.raises(ValueError, match=re.escape(f"runtime.container=x: it is not available here ({said}")):
        interpreters.check(job("runtime=container", "runtime.container=x"), measures=True)
    interpreters.check(job("runtime=container", "runtime.container=x"), measures=False)


def test_the_tool_that_has_the_image_is_taken_and_its_id_is_the_key(tools: Path) -> None:
    tool(tools, "podman", "exit 125")
    tool(tools, "docker", f"echo sha256:{tools.name}")
    given = ["runtime=container", "runtime.container=x"]
    there = interpreters.of_runtime(job(*given))
    assert there.container
    assert (there.container.tool, there.container.image) == ("docker", f"sha256:{tools.name}")
    assert interpreters.runtime_identity(job(*given)) == there.identity
    assert there.identity.startswith(f"sha256:{tools.name}-")
    for other in ("runtime.container_args=[--gpus,all]", "+runtime.environ.PYTHONPATH=/x"):
        assert interpreters.runtime_identity(job(*given, other)) != there.identity


def test_the_command_line(tools: Path, tmp_path: Path) -> None:
    """The key is passed by name: the tool takes the value from its environment."""
    tool(tools, "podman", "echo 1d")
    model = tmp_path / "model"
    model.mkdir()
    made = job("runtime=container_ngc", "hw=h100", "model=local", f"model.path={model}", "store=/the/store")
    box = interpreters.of_runtime(made).container
    assert box
    command, last = box.start(["-m", "x", "--model", str(model)], {"VLLM_API_KEY": SECRET, "PYTHONPATH": "/y"})
    assert SECRET not in " ".join([*command, *last])
    assert command[:3] == ["podman", "run", "--rm"]
    assert command[command.index("1d") - 2 :] == ["--gpus", "all", "1d", "-m", "x", "--model", str(model)]
    name = command[command.index("--name") + 1]
    assert last == ["podman", "rm", "--force", name]
    assert {"--env=VLLM_API_KEY", "--env=PYTHONPATH", "--network=host", "--ipc=host"} <= set(command)
    volumes = [part for part in command if part.startswith("--volume")]
    assert volumes == [f"--volume={ROOT}:{ROOT}:ro", f"--volume={model}:{model}:ro", "--volume=/the/store:/the/store"]
    assert name not in box.start([], {})[0]


def test_what_a_server_compiles_is_there_for_the_next_container_of_the_image(tools: Path, tmp_path: Path) -> None:
    """Two rows share it, since it lies in the store; another image has its own; who names a folder of their own gets it."""
    tool(tools, "podman", "echo sha256:0123456789abcdef")
    asked = ("runtime=container", "runtime.container=x", f"store={tmp_path}")
    row, other = (interpreters.of_runtime(job(*asked, f"method={method}")) for method in ("rtn", "gptq"))
    assert row.environ["HUMMING_CACHE_DIR"] == f"{tmp_path}/compiled/0123456789ab/humming/cache"
    assert row.environ == other.environ
    assert row.container
    assert row.container.writes == (tmp_path,)
    assert "--env=VLLM_CACHE_ROOT" in row.container.start([], row.environ)[0]
    own = interpreters.of_runtime(job(*asked, "+runtime.environ.VLLM_CACHE_ROOT=/mine"))
    assert own.environ["VLLM_CACHE_ROOT"] == "/mine"
    assert containers.compiled("sha256:fedcba9876543210", tmp_path).keys() == containers.COMPILED.keys()
    assert (
        "compiled/fedcba987654/triton" in containers.compiled("sha256:fedcba9876543210", tmp_path)["TRITON_CACHE_DIR"]
    )


@pytest.mark.parametrize(
    ("hw", "image", "options"),
    [
        (
            "mi325x",
            "docker.io/vllm/vllm-openai-rocm:v0.31.0",
            "--device=/dev/kfd --device=/dev/dri --group-add=video --cap-add=SYS_PTRACE --security-opt=seccomp=unconfined",
        ),
        ("mi300x", "docker.io/vllm/vllm-openai-rocm:v0.31.0", "--device=/dev/kfd --device=/dev/dri"),
        ("thor", "nvcr.io/nvidia/vllm:26.10-py3", "--runtime=nvidia"),
    ],
)
def test_the_vendors_images_get_their_devices(tools: Path, hw: str, image: str, options: str) -> None:
    """The hardware's own choice of a runtime; a tool that has this image only."""
    tool(tools, "docker", f'[ "$5" = {image} ] && echo 1d')
    box = interpreters.of_runtime(job(f"hw={hw}")).container
    assert box
    command = box.start(["-m", "x"], {})[0]
    assert command[:2] == ["docker", "run"]
    assert command[-3:] == ["1d", "-m", "x"]
    given = " ".join(command)
    assert options in given
    for shared in (
        "--ipc=host",
        "--env=HIP_VISIBLE_DEVICES",
        "--env=ROCR_VISIBLE_DEVICES",
        "--env=CUDA_VISIBLE_DEVICES",
    ):
        assert shared in command


def test_what_links_in_the_models_folder_lead_to_is_there_too(tools: Path, tmp_path: Path) -> None:
    """A folder in Hugging Face's cache holds links alone."""
    tool(tools, "podman", "echo 1d")
    snapshot, blobs = tmp_path / "snapshots/1", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "0a").touch()
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a")
    box = interpreters.of_runtime(job("runtime=container_ngc", "hw=h100", f"model.path={snapshot}")).container
    assert box
    assert box.reads == (ROOT, snapshot, blobs)


def test_the_tool_gets_the_key_by_its_environment_and_is_called_again_to_remove(tools: Path) -> None:
    """A tool that writes down how it is called, in place of one that starts something."""
    calls = tools / "calls"
    tool(
        tools,
        "podman",
        f'[ "$1" = image ] && echo 1d; echo "$@ KEY=$VLLM_API_KEY" >> {calls}; [ "$1" != run ] || exit 3',
    )
    there = interpreters.of_runtime(job("runtime=container", "runtime.container=x"))
    with process.process(there, ["-c", "pass"], {"VLLM_API_KEY": SECRET}) as child:
        assert child.wait() == 3
    _, run, remove = calls.read_text().splitlines()
    assert run.startswith("run --rm --name qforge-")
    assert run.endswith(f"1d -c pass KEY={SECRET}")
    assert run.count(SECRET) == 1
    assert remove.split()[:3] == ["rm", "--force", run.split()[3]]


def test_a_list_of_runtimes_may_hold_all_three_kinds() -> None:
    """What the command line gives one of them does not reach the others."""
    given = ["runtime.python=/x", "runtime.container=y"]
    managed = attempts._own_place(job("runtime=vllm_cpu", *given)).runtime
    assert (managed.env, managed.python, managed.container) == ("vllm_cpu", None, None)
    image = attempts._own_place(job("runtime=container", *given)).runtime
    assert (image.env, image.python, image.container) == (None, None, "y")


def test_the_next_runtime_is_taken_where_there_is_no_image(cli: Cli, rtn: Finished) -> None:
    done = cli.succeed(
        "method=rtn", "runtime=[container,transformers]", "runtime.container=qforge/nowhere", "stages=[quantize,evaluate]",
        "eval=quick", "eval.windows=1", "eval.tasks=[]",
    )  # fmt: skip
    assert "runtime=container method=rtn refused: runtime.container=qforge/nowhere:" in " ".join(done.output.split())
    tried = json.loads((done.folder / "attempts.json").read_text())
    assert [each["outcome"] for each in tried] == ["refused", "taken"]


# -- with a real image


def libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries of the system that these files are linked against."""
    said = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"\s(/(?:usr/)?lib\S+) \(0x", said)}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterable[list[str]]:
    """Overrides for a runtime in an image that holds nothing but the Python of vllm_cpu, lscpu, a shell and what they are
    linked against; vLLM itself is found in the environment, by PYTHONPATH."""
    environment = managed.managed("vllm_cpu")
    where = "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_path('stdlib'), sysconfig.get_path('purelib'))"
    said = subprocess.run([environment.python, "-c", where], capture_output=True, text=True, check=True)
    prefix, stdlib, packages = map(Path, said.stdout.split())
    python = prefix / "bin" / f"{stdlib.name}"
    programs = [python, *(Path(str(shutil.which(name))).resolve() for name in ("sh", "lscpu", "uname"))]
    linked = libraries([*programs, *(stdlib / "lib-dynload").glob("*.so"), *packages.rglob("*.so*")])
    left_out = re.compile("site-packages|/test|/config-|__pycache__")
    file = tmp_path_factory.mktemp("image") / "image.tar"
    with tarfile.open(file, "w", dereference=True) as tar:
        for path in {*programs, *linked, *(prefix / "lib").glob("libpython*.so*")}:
            tar.add(path)
        tar.add(stdlib, filter=lambda member: None if left_out.search(member.name) else member)
    with tarfile.open(file, "a") as tar:
        for name, target in {"usr/bin/python3": python, "bin/sh": programs[1]}.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, str(target)
            tar.addfile(link)
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(folder)
    tool = next(filter(shutil.which, containers.TOOLS))
    name = f"qforge-test-{os.getpid()}"
    subprocess.run([tool, "import", str(file), name], check=True)
    print(f"{file.stat().st_size / 1e6:.0f} MB")
    yield ["runtime=container", f"runtime.container={name}", f"+runtime.environ.PYTHONPATH={packages}",
           "+runtime.environ.VLLM_CPU_KVCACHE_SPACE='1'", "+runtime.environ.VLLM_CPU_INT4_W4A8='0'",
           "+runtime.environ.TORCHDYNAMO_DISABLE='1'",  # it has no compiler either
           "+runtime.args.enforce_eager=true"]  # fmt: skip
    subprocess.run([tool, "rmi", "--force", name], check=True)


def running() -> set[str]:
    """Containers of ours, ended ones too."""
    tool = next(filter(shutil.which, containers.TOOLS))
    command = [tool, "ps", "--all", "--filter", "name=qforge-", "--format", "{{.Names}}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def ended(names: set[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while names & running():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


@pytest.mark.container
def test_an_image_is_probed_like_any_runtime(image: list[str]) -> None:
    before = running()
    found = probe.ask(interpreters.of_runtime(job(*image, "store=tests")), Engine.vllm)
    assert "fault" not in found, found["fault"]
    assert found["versions"]["vllm-cpu"] == "0.32.0"
    assert found["vllm"]["built_for"] == "cpu"
    probe.check(job(*image), found, "compressed-tensors")
    with pytest.raises(ValueError, match=r"hw=h100 runtime.container=qforge-test-\d+: its vLLM runs on cpu"):
        probe.check(job(*image, "hw=h100"), found, None)
    assert running() == before


@pytest.mark.container
def test_an_image_without_the_engine(image: list[str]) -> None:
    bare = [part for part in image if "PYTHONPATH" not in part]
    found = probe.ask(interpreters.of_runtime(job(*bare, "store=tests")), Engine.vllm)
    assert found["fault"] == "ModuleNotFoundError: No module named 'vllm'"


@pytest.mark.container
def test_a_container_is_asked_to_end(image: list[str]) -> None:
    code = """if True:
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), print("in order", flush=True), sys.exit()))
        print("up", flush=True)
        time.sleep(600)"""
    with process.process(interpreters.of_runtime(job(*image, "store=tests")), ["-c", code], {}) as child:
        assert child.stdout
        assert child.stdout.readline() == b"up\n"
    assert child.stdout.read() == b"in order\n"


@pytest.mark.container
def test_a_container_that_does_not_end_is_removed(image: list[str]) -> None:
    """It ignores SIGTERM, and so does a child of it."""
    code = """if True:
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
        time.sleep(600)"""
    before = running()
    with process.process(interpreters.of_runtime(job(*image, "store=tests")), ["-c", code], {}) as child:
        assert child.stdout
        pids = [int(word) for word in child.stdout.readline().split()]
        assert [psutil.pid_exists(pid) for pid in pids] == [True, True]  # the host's own numbers
        ours = running() - before
        assert len(ours) == 1
    assert ended(ours, 5)
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.container
def test_a_killed_run_leaves_no_container(image: list[str], cli: Cli, rtn: Finished) -> None:
    """While the server starts, when vLLM hears no signal."""
    before = running()
    command, folder = cli.command(
        *image, "method=rtn", "stages=[serve]", "serve.keep=true", f"artifact={rtn.folder / 'artifact'}"
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    log, deadline = folder / "serve.log", time.monotonic() + 240
    while not (log.exists() and "process group" in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    ours = running() - before
    assert len(ours) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert ended(ours, 60)


@pytest.mark.container
def test_served_and_scored_in_a_container(image: list[str], cli: Cli, rtn: Finished) -> None:
    before = running()
    done = cli.succeed("method=rtn", *QUICK, *image, "stages=[quantize,inspect,serve,evaluate,bench,report]")
    print(done.output)
    assert running() == before
    assert done.json("probe")["versions"]["vllm-cpu"] == "0.32.0"
    assert done.json("serve")["canary"]["same_twice"]
    assert 1 < done.json("serve")["resident_gib"] < 10  # of the server, not of the command that started it
    assert 1 < done.json("bench")["resident_gib"] < 10  # as another container sees it
    assert done.json("bench")["runs"]["1"]
    assert 10 < done.json("evaluate")["texts"]["wikitext"]["perplexity"] < 60
