"""The documentation: it builds without a warning, fetches nothing, and every command in it can be composed."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from support.command import ROOT

from qforge import cli, main
from qforge.config.compose import typed
from qforge.config.job import Job
from qforge.config.places import CONF

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^(?: {4})?(?:\$ )?(?:qforge|python run\.py) (?P<typed>.*)$", re.M)
COMMANDS = sorted({found["typed"] for page in PAGES for found in COMMAND.finditer(page.read_text())})
WITHOUT_KEYS = (*main.COMMANDS, "--version", "--config-dir")  # test_installed.py has them


def test_the_pages_have_commands() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.startswith(WITHOUT_KEYS)])
def test_every_command_can_be_composed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row of a sweep, and the last."""
    for name in re.findall(r"oc\.env:(\w+)", command):
        monkeypatch.setenv(name, "x")
    arguments = cli.expand(shlex.split(command, comments=True))
    keys = [argument.partition("=") for argument in arguments if argument not in cli.SWEEP]
    swept = len(keys) < len(arguments)
    for place in (0, -1) if swept else (0,):
        overrides = [f"{key}={value.split(',')[place] if swept else value}" for key, _, value in keys]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("config", overrides, return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            with open_dict(config):
                del config["hydra"]
            typed(config)


def test_every_key_is_explained() -> None:
    reference = drawn_by()
    for prefix, kind, _ in reference.sections("", Job, Job()):
        for each, _, meaning in reference.described(kind):
            assert meaning or reference.part_of(kind, each.name), f"{prefix}{each.name} has no comment beside its field"


def test_the_site_builds_and_fetches_nothing() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = Path(done.stdout.splitlines()[-1]).parent
    for page in ("index.html", "reference/keys.html", "howto/judge.html", "results/index.html"):
        text = (site / page).read_text()
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', text), page
    assert "exempt.NAME.match" in (site / "reference/keys.html").read_text()
    assert "needle_drop_points" in (site / "search/search_index.json").read_text()


def drawn_by() -> ModuleType:
    """docs/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
