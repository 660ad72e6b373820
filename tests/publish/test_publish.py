"""An artifact onto a hub: what arrives, what stays here, and what a broken upload leaves to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from support.checkpoints import small_llama
from support.command import Cli
from support.hub import Hub
from support.jobs import job
from support.rows import ROWS

from qforge.config.publish import Publish
from qforge.json_files import write_json
from qforge.main import main
from qforge.publish import publish
from qforge.report import card
from qforge.report.pages import render

ROW = next(row for row in ROWS if row["method"] != "bf16" and row["criteria"])
GOALS = {"memory": {"verdict": "accept", "criteria": []}}
SOUND = {**ROW, "says": "sound; good for memory", "sound": {"verdict": "accept", "criteria": []}, "goals": GOALS}
REPO = "me/model-INT4"


@pytest.fixture
def writable(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub.home.mkdir()
    hub.tokens, hub.writers = {"hf_reader", "hf_writer"}, {"hf_writer"}
    hub.stand_in(monkeypatch, "hf_writer")
    return hub


def a_run(folder: Path, row: dict) -> Path:
    """A finished run, whose artifact has a large file and others."""
    (folder / "artifact" / "qforge").mkdir(parents=True)
    write_json(folder / "row.json", row)
    (folder / "artifact" / "model.safetensors").write_bytes(bytes(100_000))
    metadata = card.metadata(job("method=gptq", "model.base=OWNER/ORIGINAL"), row, "apache-2.0")
    (folder / "artifact" / "README.md").write_text(render("card.md.j2", escape=False, row=row, metadata=metadata))
    write_json(folder / "artifact" / "qforge" / "row.json", row)
    return folder


def there(hub: Hub) -> Path:
    """The repository as it is now."""
    repository = hub.repositories[REPO]
    return repository.commits[repository.refs["main"]]


def test_what_is_sound_arrives_whole_with_a_card_that_hubs_read(writable: Hub, tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", SOUND)
    assert publish.deliver(Publish(REPO, private=True), folder) == 0
    sent = {f.relative_to(folder / "artifact"): f.read_bytes() for f in (folder / "artifact").rglob("*") if f.is_file()}
    arrived = {f.relative_to(there(writable)): f.read_bytes() for f in there(writable).rglob("*") if f.is_file()}
    assert arrived == sent
    assert writable.repositories[REPO].access == "private"
    said = ModelCard.load(there(writable) / "README.md").data
    assert (said.license, said.base_model) == ("apache-2.0", "OWNER/ORIGINAL")
    assert "quantized" in said.tags
    found = {(each.dataset_type, each.metric_type): each for each in said.eval_results}
    texts = SOUND["measured"]["evaluate"]["texts"]
    assert {text: found[text, "perplexity"].metric_value for text in texts} == {
        text: measured["perplexity"] for text, measured in texts.items()
    }
    conditions = SOUND["conditions"]
    assert (
        f"{conditions['windows']} windows of {conditions['context']} tokens"
        in found["wikitext", "perplexity"].dataset_name
    )
    assert "for the original under the same conditions" in found["wikitext", "perplexity"].metric_name
    assert model_index_to_eval_results(said.to_dict()["model-index"])


def test_what_is_not_sound_stays_here_unless_told_so(
    writable: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_run(tmp_path / "run", {**SOUND, "says": "unsound: x", "sound": {"verdict": "reject", "criteria": []}})
    assert publish.deliver(Publish(REPO), folder) == 3
    assert f"publish.repo={REPO}: not uploaded: unsound: x; publish.anyway=true uploads it" in capsys.readouterr().out
    assert not writable.asked
    assert publish.deliver(Publish(REPO, anyway=True), folder) == 0
    assert (there(writable) / "model.safetensors").is_file()


def test_a_gate_that_must_hold_and_does_not_is_an_objection(tmp_path: Path) -> None:
    gate = {**SOUND["gate"], "name": "target", "required": True}
    folder = a_run(tmp_path / "run", {**SOUND, "gate": gate, "verdict": "reject"})
    assert publish.objection(folder) == "it does not have gate=target"


def test_an_upload_that_breaks_off_goes_on(
    writable: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, writable.commits_fail = a_run(tmp_path / "run", SOUND), 1
    assert publish.deliver(Publish(REPO), folder) == 1
    said = capsys.readouterr().out
    assert "the hub answers HTTP 503" in said
    command = f"qforge publish --repo {REPO} {folder}"
    assert command in said
    monkeypatch.setattr(sys, "argv", command.split())
    assert main() == 0
    assert [asked.method for asked in writable.asked].count("PUT") == 1, "the large file is there already"
    assert (there(writable) / "README.md").is_file()


def test_an_earlier_upload_leaves_no_weights_behind(writable: Hub, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name in ("model-00001-of-00002.safetensors", "NOTES.md"):
        (old / name).write_text("")
    writable.commit(REPO, old)
    assert publish.deliver(Publish(REPO), a_run(tmp_path / "run", SOUND)) == 0
    assert sorted(f.name for f in there(writable).iterdir()) == ["NOTES.md", "README.md", "model.safetensors", "qforge"]


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "there is no token; make one that may write at"),
        ("hf_reader", "your token may only read; make one that may write at"),
        ("hf_nobody", "the hub answers HTTP 401"),
    ],
)
def test_who_may_not_write_is_refused_before_anything_is_made(
    cli: Cli, writable: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    writable.stand_in(monkeypatch, token)
    tiny = [
        "model=local",
        "model.name=tiny",
        f"model.path={small_llama(tmp_path / 'model')}",
        "method=rtn",
        "group_size=32",
    ]
    quantize = ["stages=[quantize,inspect]", f"store={tmp_path / 'store'}"]
    done = cli.inside(*tiny, *quantize, f"publish.repo={REPO}", "publish.anyway=true")
    assert done.code == 2
    assert f"publish.repo={REPO}: " in done.output
    assert said in done.output
    assert writable.repositories == {}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["publish.repo=mine"], "publish.repo='mine': is not the name of a repository; use ORG/NAME"),
        (["publish.repo=a/b", "method=bf16"], "publish.repo=a/b: this run makes no checkpoint"),
        (["publish.repo=a/b", "stages=[quantize]"], "what was not judged is not uploaded"),
    ],
)
def test_a_run_that_can_publish_nothing_is_refused(cli: Cli, overrides: list[str], said: str) -> None:
    done = cli.inside("method=rtn", "plan_only=true", *overrides)
    assert done.code == 2
    assert said in done.output


def test_a_folder_without_an_artifact_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["qforge", "publish", "--repo", REPO, str(tmp_path)])
    assert main() == 2
    assert "no row.json with an artifact beside it" in capsys.readouterr().err
