"""A runtime that lives in a container image: podman or docker start its Python, with the same paths inside as outside."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOOLS = ("podman", "docker")
# The host's process numbers, so that a server's memory can be sampled from outside and from another container; no time
# to stop by itself, since qforge.envs.guard has asked it before; no SELinux labels, since the folders are not the container's.
OPTIONS = ("--network=host", "--ipc=host", "--pid=host", "--stop-timeout=0", "--security-opt=label=disable")

# What vLLM and its kernels compile at a server's start they would write into the home of a container that is gone with it.
# Read in vLLM 0.33 (envs.py), Triton (knobs.py), humming-kernels 0.1.19 (utils/jit.py: its locks are in TMP), and of FlashInfer
# in its documentation.
COMPILED = {
    "VLLM_CACHE_ROOT": "vllm", "TRITON_CACHE_DIR": "triton", "HUMMING_CACHE_DIR": "humming/cache",
    "HUMMING_TMP_DIR": "humming/tmp", "FLASHINFER_WORKSPACE_BASE": "flashinfer", "CUDA_CACHE_PATH": "cuda",
}  # fmt: skip

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")  # which GPUs, where the caller says


@dataclass(frozen=True)
class Container:
    """An image that is on this machine, and what a container of it is given."""

    tool: str
    image: str  # its id
    arguments: tuple[str, ...]  # the tool's own options
    reads: tuple[Path, ...]  # folders
    writes: tuple[Path, ...]

    def start(self, arguments: list[str], environ: Iterable[str]) -> tuple[list[str], list[str]]:
        """The command that starts Python in a new container, and the one that removes it, whatever it does.

        `environ` are names: the values come from the environment of the command, where no other user can read them.
        """
        name = f"qforge-{secrets.token_hex(6)}"
        volumes = [f"--volume={folder}:{folder}:ro" for folder in self.reads if folder.exists()]
        volumes += [f"--volume={folder}:{folder}" for folder in self.writes]
        passed = [f"--env={variable}" for variable in (*environ, *VISIBLE)]
        # an image's own entry point may be a server (vllm/vllm-openai)
        own = ["--rm", "--name", name, "--entrypoint", "python3", *OPTIONS, *volumes, *passed, *self.arguments]
        return [self.tool, "run", *own, self.image, *arguments], [self.tool, "rm", "--force", name]


def compiled(image: str, store: Path) -> dict[str, str]:
    """Where what an image compiles is kept for its next container: variables with folders in the store."""
    folder = store / "compiled" / image.removeprefix("sha256:")[:12]
    return {variable: str(folder / part) for variable, part in COMPILED.items()}


@cache  # asked for every key of a run
def find(image: str) -> tuple[str, str]:
    """The tool that has the image, and the image's id: a tag may mean another image tomorrow. Raises ValueError for none."""
    errors = {}
    for tool in filter(shutil.which, TOOLS):
        command = [tool, "image", "inspect", "--format", "{{.Id}}", image]
        listing = subprocess.run(command, capture_output=True, text=True)
        if listing.returncode == 0:
            return tool, listing.stdout.strip()
        errors[tool] = " ".join(listing.stderr.split())
    if not errors:
        raise ValueError(
            f"runtime.container={image}: neither podman nor docker is on PATH; install one, or use "
            "runtime=existing, or, on NVIDIA GPUs and on CPUs, a runtime with its own environment (vllm, vllm_cpu)"
        )
    raise ValueError(
        f"runtime.container={image}: it is not available here ({'; '.join(f'{t}: {w}' for t, w in errors.items())}); get it "
        f"with `{next(iter(errors))} pull {image}`, or use another runtime"
    )
