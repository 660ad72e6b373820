"""What a run leaves behind for people: report.html, and the artifact with its model card and provenance."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qforge import provenance
from qforge.config import Job
from qforge.plan import Plan
from qforge.request import to_json, without_secrets

TEMPLATES = Path(__file__).with_name("templates")
RESULTS = ("plan", "calibrate", "quantize", "inspect", "probe", "serve", "evaluate", "bench", "verdict", "row")


def html(file: Path, row: dict[str, Any]) -> None:
    """The report: one page that needs nothing else."""
    partial = file.with_suffix(".partial")
    partial.write_text(_render("report.html.j2", row, escape=True))
    partial.rename(file)


def artifact(folder: Path, stored: Path, job: Job, plan: Plan, row: dict[str, Any]) -> None:
    """<folder>/artifact: the checkpoint, complete in itself, with README.md and qforge/. Appears by rename.

    Weights are hard links to the store where the file system allows it, and read-only: no second copy. What an editor
    may touch is copied.
    """
    final, partial = folder / "artifact", folder / "artifact.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(stored, partial, copy_function=_link)
    (partial / "README.md").write_text(_render("card.md.j2", row, escape=False))
    notes = partial / "qforge"
    notes.mkdir()
    (notes / "job.json").write_text(to_json(without_secrets(job)))
    for name in RESULTS:
        if (folder / f"{name}.json").exists():
            shutil.copyfile(folder / f"{name}.json", notes / f"{name}.json")
    (partial / provenance.HASHES).write_text(to_json(provenance.file_hashes(partial)))
    partial.rename(final)


def clear(folder: Path) -> None:
    """Remove what an earlier run left in the same folder: nothing old may look like a result of this one."""
    for name in RESULTS:
        for file in (folder / f"{name}.json", folder / f"bf16-{name}.json"):
            file.unlink(missing_ok=True)
    (folder / "report.html").unlink(missing_ok=True)
    shutil.rmtree(folder / "artifact", ignore_errors=True)


def _link(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system
    shutil.copyfile(source, target)


def _render(template: str, row: dict[str, Any], escape: bool) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: "" if value is None else f"{value:.4g}"
    environment.filters["megabytes"] = lambda count: f"{count / 1e6:,.1f} MB"
    return environment.get_template(template).render(row=row)
