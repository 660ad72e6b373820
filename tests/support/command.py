"""The command line as users run it, and how it ended."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from qforge import cli
from qforge.config.places import CONF
from qforge.json_files import read_json

ROOT = Path(__file__).resolve().parents[2]

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

    def inside(self, *overrides: str) -> Finished:
        """The same in this process, which saves two seconds: for what needs no library and no signal."""
        (_, _, *arguments), folder = self.command(*overrides)
        folder.mkdir(parents=True)  # as Hydra does
        text = StringIO()
        with (
            initialize_config_dir(str(CONF), version_base="1.3"),
            redirect_stdout(text),
            redirect_stderr(text),
        ):
            config = hydra.compose("config", cli.expand(arguments), return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            with open_dict(config):
                del config["hydra"]
            code = cli.run(cli.command_of(config), str(folder), debug=False)
        return Finished(code, text.getvalue(), folder)

    def succeed_inside(self, *overrides: str) -> Finished:
        """`succeed`, in this process."""
        done = self.inside(*overrides)
        assert done.code == 0, done.output
        return done
