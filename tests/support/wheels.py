"""A package index in a folder, of real wheels with one line each."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path


def index(folder: Path) -> str:
    """The address of an index, for UV_DEFAULT_INDEX."""
    folder.mkdir(exist_ok=True)
    return folder.as_uri()


def add_wheel(
    folder: Path, name: str, version: str, requires: Sequence[str] = (), code: str = "", tag: str = "py3-none-any"
) -> None:
    """Put a wheel of one module into an index, which asks for `requires` and runs `code` when it is imported."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        *(f"Requires-Dist: {r}\n" for r in requires),
    ]
    with zipfile.ZipFile(_page(folder, name) / f"{module}-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", code)
        wheel.writestr(f"{info}/METADATA", "".join(metadata))
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    _page(folder, name)


def add_source(folder: Path, name: str, version: str, setup: str) -> None:
    """Put a source package into an index: its setup.py is `setup`."""
    top = folder.parent / f"{name}-{version}"
    top.mkdir()
    (top / "setup.py").write_text(setup)
    with tarfile.open(_page(folder, name) / f"{name}-{version}.tar.gz", "w:gz") as archive:
        archive.add(top, top.name)
    _page(folder, name)


def _page(folder: Path, name: str) -> Path:
    """The folder of a package, and the page that lists its files."""
    page = folder / name
    page.mkdir(exist_ok=True)
    files = [file.name for file in page.iterdir() if file.suffix in (".whl", ".gz")]
    (page / "index.html").write_text("".join(f'<a href="{file}">{file}</a>\n' for file in files))
    return page
