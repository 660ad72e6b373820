"""A folder that is used again shows nothing old, and loses nothing that is not a run's own or that the user names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from support.command import Cli, Finished

from qforge.pipeline.folder import OF_SWEEP, clear, written

PLAN = ("method=rtn", "plan_only=true", "runtime=transformers")


def tree(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """What a run leaves, an artifact among it, beside what is somebody's own."""
    folder = tmp_path / "used"
    (folder / "artifact" / "qforge").mkdir(parents=True)
    for name in ("plan", "row", "bf16-bench", "kv-fp8-evaluate", "bf16-kv-fp8-serve", "report", "mine"):
        (folder / f"{name}.json").write_text("{}")
    for name in ("serve.log", "bf16-kv-fp8-serve.log", "mine.log", "report.html", "README.md"):
        (folder / name).write_text("")
    for name in ("config.json", "qforge/hashes.json", "qforge/job.json"):
        (folder / "artifact" / name).write_text("{}")
    return folder


def test_a_run_leaves_nothing_old_and_takes_nothing_else(used: Path) -> None:
    clear(used, ["default", "data/texts/wikitext2_heldout.txt"])
    assert tree(used) == ["README.md", "mine.json", "mine.log"]


def test_a_run_of_every_stage_is_cleared_whole(rtn: Finished, tmp_path: Path) -> None:
    folder = shutil.copytree(rtn.folder, tmp_path / "run")
    clear(folder, [])
    assert [file for file in tree(folder) if not file.startswith(".hydra")] == []


@pytest.mark.parametrize(
    "named", ["artifact", "artifact/config.json", "report.json", "row.json", "{home}/artifact", "artifact/../artifact"]
)
def test_what_the_job_names_is_never_removed(named: str, used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(used))
    before = tree(used)
    text = "~/artifact" if "{home}" in named else str(used / named)
    with pytest.raises(
        ValueError, match=rf"hydra.run.dir={used}: .* reads {re.escape(text)}; give another hydra.run.dir"
    ):
        clear(used, ["default", text])
    assert tree(used) == before


def test_a_relative_path_is_the_users_or_the_checkouts(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(used.parent)
    with pytest.raises(ValueError, match="reads used/artifact"):
        clear(used, ["used/artifact"])
    with pytest.raises(ValueError, match="reads used/artifact"):
        clear(used.resolve(), ["used/artifact"])


def test_the_provenance_of_a_checkpoint_that_is_named_is_not_removed_either(used: Path) -> None:
    """hydra.run.dir may lie inside the checkpoint, whose own qforge/ has files with the names of results."""
    (used / "artifact" / "qforge" / "row.json").write_text("{}")
    with pytest.raises(ValueError, match=r"would remove row.json"):
        clear(used / "artifact" / "qforge", [str(used / "artifact")])
    assert (used / "artifact" / "qforge" / "row.json").exists()


def test_a_folder_inside_a_checkpoint_is_used_again(used: Path) -> None:
    (used / "config.json").write_text("{}")
    (used / "out").mkdir()
    (used / "out" / "row.json").write_text("{}")
    clear(used / "out", [str(used)])
    assert not (used / "out" / "row.json").exists()


def test_a_folder_artifact_that_no_run_made_is_not_removed(used: Path) -> None:
    (used / "artifact" / "qforge" / "hashes.json").unlink()
    with pytest.raises(
        ValueError, match=r"artifact in it was not made by a run; move it, or give another hydra.run.dir"
    ):
        clear(used, [])
    shutil.rmtree(used / "artifact")
    (used / "artifact").symlink_to(used.parent)
    with pytest.raises(ValueError, match="was not made by a run"):
        clear(used, [])
    assert written(used)


def test_of_a_sweep_its_own_report_is_removed(used: Path) -> None:
    """And what its rows were refused, which the next asks again."""
    for name in ("sweep.json", "refused-fetch-0123456789abcdef.txt", "refused-mine.txt"):
        (used / name).write_text("{}")
    clear(used, [], OF_SWEEP)
    assert (used / "plan.json").exists()
    assert [file for file in tree(used) if file.startswith(("report", "sweep", "refused"))] == ["refused-mine.txt"]


@pytest.mark.parametrize("key", ["artifact", "verify", "model.path", "eval.texts.wikitext.path"])
def test_a_run_does_not_delete_what_it_was_given(key: str, cli: Cli, used: Path) -> None:
    before = tree(used)
    named = used / ("report.json" if "texts" in key else "artifact")
    done = cli(*PLAN, f"{key}={named}", f"hydra.run.dir={used}")
    assert done.code == 2
    assert f"refused: hydra.run.dir={used}: this run would remove {named.name}" in done.output
    assert [file for file in tree(used) if not file.startswith(".hydra")] == before


def test_a_run_that_is_refused_while_it_is_composed_shows_no_older_row(cli: Cli, used: Path) -> None:
    done = cli("method=rtn", "runtime=existing", f"hydra.run.dir={used}")
    assert done.code == 2
    assert json.loads((used / "row.json").read_text())["verdict"] == "refused"
    assert not (used / "artifact").exists()


def test_a_failed_attempt_sets_only_its_own_files_aside(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    given = ("method=nvfp4", "runtime=transformers", "on_failure=fallback", "plan_only=true")
    cli.succeed(*given, f"hydra.run.dir={tmp_path}")
    assert (tmp_path / "attempt-1" / "row.json").exists()
    assert (tmp_path / "mine.txt").exists()
