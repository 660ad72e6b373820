"""Where a result comes from: machine, versions, commit, hashes. And the check of an artifact against what it says."""

from __future__ import annotations

import datetime
import hashlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qforge import __version__, json_files
from qforge.config.places import INSTALLED, ROOT
from qforge.machine import identity

HASHES = "qforge/hashes.json"
# What fetching and signing leave beside the files of an artifact, and nothing loads: git, the hub, its library, model-signing.
BESIDE = (".git", ".gitattributes", ".cache", "model.sig")


def now() -> dict[str, Any]:
    """Date, machine and qforge: what a result is stamped with when it is made."""
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    return {"date": today, "machine": identity.machine(), "qforge": commit()}


def commit() -> dict[str, Any]:
    """qforge's own version, and the commit of its checkout, or of the one that its wheel was built from."""
    if INSTALLED:
        return {"version": __version__, **json_files.read_json(ROOT / "commit.json")}
    return {"version": __version__, "commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    if not shutil.which("git"):
        return None
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` but the list of hashes itself and what may lie BESIDE."""
    own = [entry for entry in sorted(folder.iterdir()) if entry.name not in BESIDE]
    files = [f for entry in own for f in (sorted(entry.rglob("*")) if entry.is_dir() else [entry]) if f.is_file()]
    files = [f for f in files if f.relative_to(folder).as_posix() != HASHES]
    with ThreadPoolExecutor() as pool:  # gigabytes each
        return {f.relative_to(folder).as_posix(): sha for f, sha in zip(files, pool.map(_sha256, files), strict=True)}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(artifact: Path) -> list[str]:
    """What differs between an artifact and the hashes that were written with it; nothing if it is as it was.

    Raises ValueError where the folder carries no hashes.
    """
    if not (artifact / HASHES).is_file():
        raise ValueError(f"verify={artifact}: no {HASHES} in it, so it is not an artifact of qforge")
    recorded, hashes = json_files.read_json(artifact / HASHES), file_hashes(artifact)
    missing = [f"{name}: missing" for name in recorded.keys() - hashes.keys()]
    extra = [f"{name}: added since it was made" for name in hashes.keys() - recorded.keys()]
    changed = [f"{name}: changed" for name in recorded.keys() & hashes.keys() if recorded[name] != hashes[name]]
    return sorted(missing + extra + changed)
