"""Existing interpreters in place of managed environments: how a machine without a network runs its stages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.command import ROOT, Cli
from support.jobs import job

from qforge.envs import interpreters, managed, process
from qforge.envs.process import Environment
from qforge.store import provenance


def quant(python: str, **environ: str) -> list[str]:
    """The override that has every stage of the quantizer's environment run by this interpreter."""
    return [f"+envs.quant.python={python}", *(f"+envs.quant.{name}={value}" for name, value in environ.items())]


def test_an_interpreter_that_does_not_start(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    python.chmod(0o755)
    with pytest.raises(ValueError, match=r"runtime.python=.*: does not start: \['broken'\]"):
        interpreters.existing(str(python), {}, "runtime.python")


def test_an_interpreter_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"envs\.quant\.python=/no/where: not an executable; give the path"):
        interpreters.named("quant", job(*quant("/no/where")))


def test_an_interpreter_that_is_not_named() -> None:
    with pytest.raises(ValueError, match=r"envs.quant: does not name the interpreter; add \+envs.quant.python=PATH"):
        interpreters.named("quant", job("+envs.quant.PYTHONPATH=/somewhere"))


def test_an_environment_that_no_stage_asks_for() -> None:
    with pytest.raises(ValueError, match="env=quantt: no such environment; choose from"):
        interpreters.check(job(f"+envs.quantt.python={sys.executable}"), measures=True)


def test_an_interpreter_is_known_by_its_packages(tmp_path: Path) -> None:
    plain = interpreters.existing(sys.executable, {}, "x").identity
    assert interpreters.existing(sys.executable, {}, "x").identity == plain
    folder = tmp_path / "new-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: new\nVersion: 1.0\n")
    assert interpreters.existing(sys.executable, {"PYTHONPATH": str(tmp_path)}, "x").identity != plain


def test_its_packages_and_qforge_are_both_found(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("")
    there = Environment(Path(sys.executable), "x", None, {"PYTHONPATH": str(tmp_path)})
    with process.process(there, ["-c", "import theirs, qforge; print(qforge.__file__)"], {}) as child:
        assert child.stdout
        assert child.stdout.read().decode().strip() == str(ROOT / "qforge" / "__init__.py")
        assert child.wait() == 0


def test_every_stage_runs_in_the_given_interpreter_and_nothing_is_made(cli: Cli, tmp_path: Path) -> None:
    """A model of random weights, made and quantized by an interpreter whose packages are found by PYTHONPATH alone."""
    python = managed.managed("quant").python
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    bare = subprocess.run([python, "-c", "import sys; print(sys._base_executable)"], capture_output=True, text=True)
    shape = tmp_path / "config.json"
    shape.write_text(
        '{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 64, "intermediate_size": 128, '
        '"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300, '
        '"max_position_embeddings": 512, "tie_word_embeddings": false}'
    )
    done = cli.succeed(
        "model=qwen3_8b_random", f"model.architecture={shape}", "method=rtn", "stages=[quantize,inspect,report]",
        f"store={tmp_path / 'store'}",  # the other tests know one model
        *quant(bare.stdout.strip(), PYTHONPATH=packages),
    )  # fmt: skip
    assert done.json("inspect")["faults"] == []
    assert "Random weights: speed and memory only." in (done.folder / "report.html").read_text()


def test_a_machine_without_git_says_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit()["commit"] is None


def _identity(folder: Path) -> str:
    interpreters._packages.cache_clear()
    return interpreters.existing(sys.executable, {"PYTHONPATH": str(folder)}, "x").identity


def _installed(folder: Path, record: str, direct: str = "") -> None:
    """A package `theirs` with a compiled part, as a wheel leaves it."""
    (folder / "theirs").mkdir(exist_ok=True)
    (folder / "theirs" / "__init__.py").write_text("")
    (folder / "theirs" / "_C.abi3.so").write_bytes(b"first")
    info = folder / "theirs-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "RECORD").write_text(record)
    if direct:
        (info / "direct_url.json").write_text(direct)


def test_a_wheel_that_is_built_anew_under_its_old_version_is_another_one(tmp_path: Path) -> None:
    _installed(tmp_path, "theirs/_C.abi3.so,sha256=one,5\n")
    before = _identity(tmp_path)
    _installed(tmp_path, "theirs/_C.abi3.so,sha256=one,5\ntheirs/__pycache__/x.pyc,,\n")
    assert _identity(tmp_path) == before, "what Python writes there itself is nothing new"
    _installed(tmp_path, "theirs/_C.abi3.so,sha256=two,5\n")
    assert _identity(tmp_path) != before


@pytest.mark.parametrize("direct", ["", '{"url": "file:///x", "dir_info": {"editable": true}}'])
def test_a_checkout_that_is_built_anew_under_its_old_version_is_another_one(direct: str, tmp_path: Path) -> None:
    _installed(tmp_path, "theirs.pth,sha256=one,5\n" if direct else "", direct)
    before = _identity(tmp_path)
    assert _identity(tmp_path) == before
    (tmp_path / "theirs" / "_C.abi3.so").write_bytes(b"another")
    assert _identity(tmp_path) != before


def test_a_checkout_of_vllm_without_metadata_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    before = _identity(tmp_path)
    (tmp_path / "vllm" / "_C.so").write_bytes(b"built")
    assert _identity(tmp_path) != before
