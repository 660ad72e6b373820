"""qforge from a wheel, in a Python of its own and a folder of the user's: no file of the checkout is near."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.command import ROOT, Cli

from qforge import __version__
from qforge.envs import managed
from qforge.json_files import read_json

UV = Path(sys.executable).with_name("uv")
PLAN = ("plan_only=true", "model=qwen3_8b", "hw=h100", "method=rtn")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT], check=True)
    (file,) = folder.glob("*.whl")
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", file.name]
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tool")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    constraints = ROOT / "envs" / "control.txt"
    command = [UV, "pip", "install", "--quiet", "--python", folder, "--constraints", constraints, wheel]
    subprocess.run(command, check=True)
    return folder / "bin" / "python"


class Installed:
    """The command `qforge` as a user has it, in a project of theirs."""

    def __init__(self, python: Path, project: Path, cache: Path) -> None:
        self.python, self.project = python, project
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QFORGE"))}
        self.environ = kept | {"QFORGE_CACHE": str(cache), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}

    def __call__(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = ["qforge", *arguments]
        env = self.environ | environ
        return subprocess.run(command, cwd=self.project, env=env, capture_output=True, text=True, timeout=300)

    def succeed(self, *arguments: str, **environ: str) -> str:
        done = self(*arguments, **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def qforge(python: Path, tmp_path: Path) -> Installed:
    project = tmp_path / "project"
    project.mkdir()
    return Installed(python, project, tmp_path / "cache")


def test_a_wheel_holds_what_a_checkout_has_around_the_package_and_is_small(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    lists = [file.relative_to(ROOT).as_posix() for file in (ROOT / "envs").glob("*.txt")]
    shared = [*lists, *(file for file in tracked if file.startswith(("conf/", "data/")))]
    assert {f"qforge/share/{file}" for file in shared} <= inside
    assert {file for file in tracked if file.startswith(("qforge/", "hydra_plugins/"))} <= inside
    assert not [name for name in inside if "tests/" in name or name.endswith(".pyc")]
    assert wheel.stat().st_size < 3e6


def test_it_plans_in_any_folder_and_writes_there_alone(qforge: Installed, tmp_path: Path) -> None:
    assert "served" in qforge.succeed(*PLAN)
    assert sorted(path.name for path in qforge.project.iterdir()) == [".store", "outputs"]
    assert not (tmp_path / "cache").exists()
    help_text = qforge.succeed("--help")
    assert "Usage:  qforge [group=option ...]" in help_text
    assert "run.py" not in help_text


def test_the_version_says_which_commit_it_was_built_from(qforge: Installed) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    said = qforge.succeed("--version")
    assert said.startswith(f"qforge {__version__} (commit {head}")


def test_a_configuration_of_the_user_s_own(qforge: Installed) -> None:
    written = qforge.succeed("init", "my/conf").splitlines()
    assert written[:-1] == [f"my/conf/{file}/mine.yaml" for file in ("experiment", "gate", "model")]
    again = qforge("init", "my/conf")
    assert (again.returncode, again.stderr) == (
        2,
        "refused: init my/conf: my/conf/experiment/mine.yaml exists; give another folder, or move it\n",
    )
    (qforge.project / "my/conf/experiment/both.yaml").write_text("experiments: [mine, rtn]\n")
    assert "(int4, group 32)" in qforge.succeed("--config-dir", "my/conf", "experiment=mine", "plan_only=true")
    # a list of theirs, and the variable in place of the option
    refused = qforge("experiment=both", "plan_only=true", QFORGE_CONFIG_DIR="my/conf")
    assert "experiment=both: is a list of 2 experiments" in refused.stderr
    (qforge.project / "my/conf/model/qwen3_8b.yaml").write_text("name: mine\n")
    refused = qforge("--config-dir=my/conf", "plan_only=true")
    assert (refused.returncode, refused.stderr) == (
        2,
        "refused: my/conf/model/qwen3_8b.yaml: qforge has an option of this name and would read its own; give yours "
        "another name\n",
    )


def test_the_user_s_files_come_before_those_of_qforge(qforge: Installed) -> None:
    own = qforge.project / "data/architectures/qwen3_8b.json"
    own.parent.mkdir(parents=True)
    own.write_bytes((ROOT / "data/architectures/llama3_1_8b.json").read_bytes())
    assert "8.03 B parameters, shapes from data/architectures/qwen3_8b.json" in qforge.succeed(*PLAN)


def test_stages_find_it_in_their_own_environments(qforge: Installed, cli: Cli, model: Path, tmp_path: Path) -> None:
    """Made by another qforge here, since that takes minutes; the folder is named by the pinned list."""
    managed.managed("quant")
    (tmp_path / "cache" / "venvs").mkdir(parents=True)
    (tmp_path / "cache" / "venvs" / managed.identity("quant")).symlink_to(managed.VENVS / "quant")
    qforge.succeed("init")
    keys = ("experiment=mine", "stages=[quantize,inspect,report]", "hw=cpu", f"store={cli.store}", "hydra.run.dir=out")
    qforge.succeed("--config-dir", "conf", *keys)
    row = read_json(qforge.project / "out" / "row.json")
    assert row["experiment"]["name"] == "MINE"
    assert row["command"].startswith(f"qforge --config-dir {qforge.project / 'conf'} experiment=mine")
    made = read_json(qforge.project / "out" / "quantize.json")["made"]["qforge"]
    assert made["version"] == __version__
    assert made["commit"]
    (code,) = (tmp_path / "cache" / "code").iterdir()
    plugins = "import importlib.metadata as m; print(*(e.value for e in m.entry_points(group='vllm.general_plugins')))"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(code)}
    found = subprocess.run(
        [sys.base_prefix + "/bin/python3", "-c", plugins], env=environ, capture_output=True, text=True
    )
    assert found.stdout.split() == ["qforge.runtimes.fp4_emulation:register"]


def test_bash_completes_groups_and_the_user_s_options(qforge: Installed) -> None:
    qforge.succeed("init")
    script = """
    eval "$(qforge -sc install=bash)"
    for COMP_LINE in "qforge method=gptqm" "qforge experiment=mi"; do
        COMP_WORDS=($COMP_LINE) COMP_CWORD=1 COMP_POINT=${#COMP_LINE}
        hydra_bash_completion
        echo "${COMPREPLY[@]}"
    done
    """
    environ = qforge.environ | {"QFORGE_CONFIG_DIR": "conf"}
    done = subprocess.run(["bash", "-c", script], cwd=qforge.project, env=environ, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["method=gptqmodel method=gptqmodel_awq", "experiment=mine"]
