"""The folder of a run or of a sweep: which of its files qforge wrote, and how those of an earlier run leave it.

Nothing else in it is touched, and nothing that the job names, wherever it lies.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from qforge.config.places import ROOT, project
from qforge.store import provenance

RESULTS = ("plan", "sensitivity", "budget", "calibrate", "kv_scales", "core", "quantize", "inspect", "probe", "serve",
           "evaluate", "divergence", "flips", "bench", "verdict", "row")  # fmt: skip
REPORT = r"report\.(html|csv|json)"
# of the model, of bf16, and of either with another KV cache
OF_RUN = re.compile(
    rf"(bf16-|source-)?(kv-\w+-)?({'|'.join(RESULTS)}|fetch|unpack|dataset|fetch-packages|guide|attempts|tracking)"
    rf"\.(json|log)|(bf16-|source-)?(kv-\w+-)?answers\.jsonl|([\w-]+-)?losses\.log|allocation\.log|{REPORT}"
)
OF_SWEEP = re.compile(
    rf"{REPORT}|sweep\.json|ladder\.json|smallest\.json|tracking\.json|refused-(fetch|source)-\w+\.txt"
)
ARTIFACTS = ("artifact", "artifact.partial")


def written(folder: Path, pattern: re.Pattern[str] = OF_RUN) -> list[Path]:
    """The files in `folder` that a run (or a sweep, with OF_SWEEP) wrote, by their names."""
    return [file for file in sorted(folder.iterdir()) if file.is_file() and pattern.fullmatch(file.name)]


def clear(folder: Path, texts: Iterable[str], pattern: re.Pattern[str] = OF_RUN) -> None:
    """Remove what an earlier run left in the same folder: nothing old may look like a result of this one.

    `texts` are all values of the configuration. Raises ValueError where one of them names what would be removed, and
    where `artifact` is not known to be a run's: then nothing is removed.
    """
    if not folder.is_dir():
        return
    artifacts = [folder / name for name in ARTIFACTS if os.path.lexists(folder / name)] if pattern is OF_RUN else []
    removed = [*written(folder, pattern), *artifacts]
    for text, place in _places(texts):
        for old in removed:
            if _keeps(place, old.resolve()):
                raise ValueError(
                    f"hydra.run.dir={folder}: this run would remove {old.name}, which an earlier run left there, and the job "
                    f"reads {text}; give another hydra.run.dir"
                )
    for old in artifacts:
        if old.is_symlink() or (old.name == ARTIFACTS[0] and not (old / provenance.HASHES).is_file()):
            raise ValueError(
                f"hydra.run.dir={folder}: {old.name} in it was not made by a run; move it, or give another hydra.run.dir"
            )
    for old in removed:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()


def _places(texts: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """What of the texts is the path of something that exists: paths are relative to where the user is, or
    to what the configuration's own are relative to."""
    for text in {text for text in texts if text and "\0" not in text}:
        for base in (Path.cwd(), project(), ROOT):
            path = base / os.path.expanduser(text)
            if os.path.exists(path):
                yield text, path.resolve()


def _keeps(place: Path, old: Path) -> bool:
    """Whether removing `old` would remove what is named: `place`, something around it, or a file of the checkpoint there."""
    of_checkpoint = (place / "config.json").is_file() and old.parent in (place, place / "qforge")
    return place.is_relative_to(old) or of_checkpoint
