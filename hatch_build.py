"""What a wheel holds beside the packages: the files that a checkout has around them, in qforge/share, and its commit."""

import json
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHARED = ("conf", "data", "envs/*.txt", "results/*.json", "pyproject.toml")  # of results/ the rows that plans cite
COMMIT = "commit.json"


class Share(BuildHookInterface):
    """Not for an editable install, whose qforge finds them in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard":
            return
        root = Path(self.root)
        files = {file: file.relative_to(root) for pattern in SHARED for file in root.glob(pattern)}
        commit = Path(self.directory) / COMMIT
        commit.parent.mkdir(parents=True, exist_ok=True)
        commit.write_text(json.dumps(_commit(root)))
        files[commit] = Path(COMMIT)
        build_data["force_include"] |= {str(file): f"qforge/share/{inside}" for file, inside in files.items()}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        Path(self.directory, COMMIT).unlink(missing_ok=True)


def _commit(root: Path) -> dict[str, Any]:
    """The commit of the checkout, and whether it has changes; none where it is no checkout of its own."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return {"commit": None, "dirty": False}
    return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": bool(_git(root, "status", "--porcelain"))}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
