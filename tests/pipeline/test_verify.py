"""verify=: what it finds in a real artifact that somebody changed, hashes and all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import QUICK, Cli, Finished
from support.jobs import job

from qforge.config.compose import read_job
from qforge.json_files import read_json, to_json
from qforge.models.checkpoint import headers
from qforge.pipeline import verify
from qforge.store import provenance


@pytest.fixture
def forge(rtn: Finished, tmp_path: Path) -> Callable[[str, Callable[[dict[str, Any]], None]], Path]:
    """A copy of the artifact with one JSON file changed, and hashes that fit the change."""

    def make(name: str, change: Callable[[dict[str, Any]], None]) -> Path:
        artifact = Path(shutil.copytree(rtn.folder / "artifact", tmp_path / "forged"))
        content = read_json(artifact / name)
        change(content)
        (artifact / name).write_text(json.dumps(content))
        rehash(artifact)
        return artifact

    return make


def rehash(artifact: Path) -> None:
    (artifact / provenance.HASHES).write_text(to_json(provenance.file_hashes(artifact)))


def test_an_untouched_artifact_is_what_it_was(cli: Cli, rtn: Finished, tmp_path: Path) -> None:
    """Also where it came from a hub, whose library and git keep files beside those of the artifact, and was signed."""
    moved = shutil.copytree(rtn.folder / "artifact", tmp_path / "moved")
    for name in (".gitattributes", ".cache/huggingface/download/config.json.metadata", ".git/HEAD", "model.sig"):
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (moved / name).write_text("beside")
    done = cli.succeed_inside(f"verify={moved}")
    for said in (
        "the hash of every file",
        "the plan, recomputed",
        "every tensor against the plan and against the source",
    ):
        assert f"✓ {said}" in done.output
    assert "llmcompressor" not in done.output


def test_without_the_model_it_says_what_it_could_not_check(cli: Cli, rtn: Finished, tmp_path: Path) -> None:
    done = cli.succeed_inside(f"verify={rtn.folder / 'artifact'}", f"store={tmp_path / 'empty'}")
    assert "~ the model smollm2_135m is not on this machine: values were not compared with it" in done.output


def test_values_changed_along_with_their_hashes_are_found(cli: Cli, rtn: Finished, tmp_path: Path) -> None:
    artifact = Path(shutil.copytree(rtn.folder / "artifact", tmp_path / "forged"))
    tensor = headers(artifact)["model.layers.3.mlp.up_proj.weight_scale"]
    tensor.file.chmod(0o644)
    with tensor.file.open("r+b") as stream:
        stream.seek(tensor.offset)
        stream.write(np.array([0x7FC0], np.uint16).tobytes())  # NaN in bf16
    rehash(artifact)
    done = cli.inside(f"verify={artifact}")
    assert done.code == 2
    assert "model.layers.3.mlp.up_proj.weight_scale (NaN)" in done.output


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("qforge/plan.json", {"group_size": 32}, "plan.group_size: 32 when it was made, 64 today"),
        ("config.json", {"quantization_config": {}}, "config.json says None, the plan says int4"),
    ],
)
def test_what_contradicts_the_plan_is_found(
    cli: Cli, forge: Callable[..., Path], name: str, change: dict[str, Any], said: str
) -> None:
    done = cli.inside(f"verify={forge(name, lambda content: content.update(change))}")
    assert done.code == 2
    assert said in done.output


def test_other_versions_are_said_and_are_no_fault(cli: Cli, forge: Callable[..., Path]) -> None:
    artifact = forge("qforge/quantize.json", lambda c: c["versions"].update({"llmcompressor": "0.1"}))
    done = cli.succeed_inside(f"verify={artifact}")
    assert "~ llmcompressor: 0.1 when it was made, 0.14.0.1 in envs/quant.txt today" in done.output


def test_an_artifact_of_another_version_is_checked_by_its_hashes(cli: Cli, forge: Callable[..., Path]) -> None:
    artifact = forge("qforge/job.json", lambda content: content.update({"colour": "red"}))
    done = cli.succeed_inside(f"verify={artifact}")
    assert "~ its job.json is of another version of qforge (colour: Key 'colour' not in 'Job'" in done.output
    assert "every tensor" not in done.output


def test_a_score_that_was_never_measured_is_not_repeated(cli: Cli, rtn: Finished) -> None:
    done = cli.inside(f"verify={rtn.folder / 'artifact'}", "rescore=2")
    assert done.code == 2
    assert "rescore=2: it has no measured quality; leave rescore out" in done.output


@pytest.mark.parametrize(
    ("place", "content", "key"),
    [
        ("runtime", {"python": "/tmp/theirs"}, "runtime.python"),
        ("runtime", {"environ": {"LD_PRELOAD": "/tmp/theirs.so"}}, "runtime.environ"),
        ("runtime", {"args": {"tool_parser_plugin": "/tmp/theirs.py"}}, "runtime.args"),
        ("hw", {"args": {"worker_cls": "theirs.Worker"}}, "hw.args"),
    ],
)
def test_an_artifact_of_others_does_not_say_what_is_started(
    cli: Cli, forge: Callable[..., Path], place: str, content: dict, key: str
) -> None:
    artifact = forge("qforge/job.json", lambda job: job[place].update(content))
    done = cli.inside(f"verify={artifact}", "rescore=2")
    assert done.code == 2
    assert f"rescore=2: the artifact's job has a {key} of its own, which could start anything" in " ".join(
        done.output.split()
    )


def test_an_artifact_of_others_does_not_say_which_interpreters_run_nor_whose_code_is_trusted(
    forge: Callable[..., Path], tmp_path: Path
) -> None:
    def change(content: dict) -> None:
        content["envs"] = {"quant": {"python": "/tmp/theirs"}}
        content["model"]["trust_remote_code"] = True

    theirs = read_job(forge("qforge/job.json", change) / "qforge/job.json")
    assert theirs.model.trust_remote_code
    checked = verify._of_others(theirs, job())
    assert checked.envs == {}
    assert not checked.model.trust_remote_code


@pytest.mark.real
def test_a_sample_is_scored_again(cli: Cli, tmp_path: Path) -> None:
    run = cli.succeed("method=rtn", *QUICK, "runtime=transformers")
    artifact = run.folder / "artifact"
    assert "✓ the score of 2 windows of each text" in cli.succeed(f"verify={artifact}", "rescore=2").output
    better = artifact / "qforge/evaluate.json"
    content = read_json(better)
    text = content["texts"]["wikitext"]
    text["window_loss"] = [0.99 * loss for loss in text["window_loss"]]
    better.write_text(json.dumps(content))
    rehash(artifact)
    done = cli.inside(f"verify={artifact}", "rescore=2")
    assert done.code == 2
    assert "perplexity of wikitext, first 2 windows: +" in done.output
    assert "python_reference" not in done.output
