"""The artifact of a run that has ended, uploaded to a hub, if it was found to be what it should be."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qforge.config.publish import Publish
from qforge.console import console
from qforge.json_files import read_json
from qforge.judge import goals
from qforge.models import hub_upload

DONE, FAILED, NOT_SOUND = 0, 1, 3  # exit codes


def asked(config: DictConfig, folder: Path) -> int:
    """Upload what the run in `folder` made, where the configuration names a repository; returns the exit code."""
    wanted = Publish(**OmegaConf.to_container(config.publish, resolve=True))  # type: ignore[arg-type]
    if wanted.repo is None or not (folder / "artifact").is_dir():
        return DONE
    return deliver(wanted, folder)


def deliver(wanted: Publish, folder: Path) -> int:
    """Upload <folder>/artifact; says where it is, or why it stays here and what to do. Returns the exit code."""
    repo = str(wanted.repo)
    if not wanted.anyway and (why := objection(folder)):
        console.print(
            f"publish.repo={repo}: not uploaded: {why}; publish.anyway=true uploads it all the same", style="yellow"
        )
        return NOT_SOUND
    try:
        hub_upload.refuse_no_writer(repo)
        console.print(f"  … publish    {repo}", style="dim")  # the library has a bar of its own
        address = hub_upload.upload(repo, folder / "artifact", wanted.private)
    except ValueError as error:
        flags = " --private" * wanted.private + " --anyway" * wanted.anyway
        console.print(
            f"{error}. Nothing is lost, upload it later: qforge publish --repo {repo}{flags} {folder}", style="yellow"
        )
        return FAILED
    console.print(f"published: {address}")
    return DONE


def objection(folder: Path) -> str | None:
    """Why the artifact of a run should not be published; none where it is sound and its gate holds, if that must."""
    row = read_json(folder / "row.json")
    if goals.word(row) != "sound":
        return str(row["says"])
    return f"it does not have gate={row['gate']['name']}" if goals.missed(row) else None
