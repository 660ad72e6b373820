"""Build the documentation: python docs/build.py [mkdocs' options], or make docs. Its first page is then build/site/index.html.

What is written by hand lies in docs/; the reference is drawn from the code, and results/ and the files in capitals are taken as
they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import reference

from qforge.envs import managed

COPIED = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LOG.md": "log.md",
    "SECURITY.md": "security.md",
}
RESULTS = ("README.md", "architectures.md", "faults.md", "omni.md", "chat.md")


def gather(folder: Path) -> None:
    """Put every page and picture of the site into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("*.py", "*.yml", "__pycache__"))
    reference.written(folder)
    for name, page in COPIED.items():
        shutil.copyfile(ROOT / name, folder / page)
    (folder / "results").mkdir()
    for file in [*ROOT.glob("results/*.svg"), *(ROOT / "results" / name for name in RESULTS)]:
        shutil.copyfile(file, folder / "results" / file.name)


def main(options: list[str]) -> int:
    """Gather, then build; returns mkdocs' exit code."""
    gather(ROOT / "build" / "docs")
    python = managed.managed("docs", gpu=False).python
    command = [python, "-m", "mkdocs", "build", "--quiet", "--strict", "--config-file", DOCS / "mkdocs.yml", *options]
    code = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}).returncode
    if not code:
        print(ROOT / "build" / "site" / "index.html")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
