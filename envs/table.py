"""Which lists have a build of every package, for each Python and platform: python envs/table.py [NAME ...]

A cell is the download with PyPI's torch; the glibc that its wheels need where that is newer than 2.28; and what has no wheel
and is built from source. `absent` is what has neither: making that environment there is refused. Exits with 1 then.
"""

import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
PYTHONS, PLATFORMS = ((3, 11), (3, 12), (3, 13)), ("x86_64", "aarch64")
GLIBC = (28, 31, 34, 39)  # 2.N: RHEL 8, Ubuntu 20.04, RHEL 9, Ubuntu 24.04


@dataclass(frozen=True)
class Cell:
    """What one Python on one platform gets."""

    download: int  # bytes
    glibc: int
    source: tuple[str, ...]
    absent: tuple[str, ...]

    def __str__(self) -> str:
        notes = [f"{self.download / 1e9:.1f} GB", f"glibc 2.{self.glibc}" if self.glibc > GLIBC[0] else ""]
        notes += [f"builds {', '.join(self.source)}" if self.source else ""]
        notes += [f"**absent: {', '.join(self.absent)}**" if self.absent else ""]
        return ", ".join(filter(None, notes))


def packages(name: str) -> list[dict[str, Any]]:
    """Every package of a list, and what torch brings along, with the files that the index has of it."""
    overrides = ROOT / f"envs/{name}.overrides.txt"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pylock.toml"
        command: list[str | Path] = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--universal"]
        command += [
            "--python-version",
            "3.11",
            "--format",
            "pylock.toml",
            "--output-file",
            out,
            ROOT / f"envs/{name}.txt",
        ]
        command += ["--overrides", overrides] if overrides.exists() else []
        subprocess.run(command, check=True)
        return list(tomllib.loads(out.read_text())["packages"])


def cell(files: list[dict[str, Any]], python: tuple[int, int], platform: str) -> Cell:
    """The oldest glibc with which nothing more can be had as a wheel."""
    cells = [_cell(files, python, platform, glibc) for glibc in GLIBC]
    return min(cells, key=lambda cell: (len(cell.absent), len(cell.source), cell.glibc))


def _cell(files: list[dict[str, Any]], python: tuple[int, int], platform: str, glibc: int) -> Cell:
    tags, machine = _tags(python, platform, glibc), _machine(python, platform)
    download, source, absent = 0, list[str](), list[str]()
    for package in files:
        if "marker" in package and not Marker(package["marker"]).evaluate(machine):
            continue
        wheels = [wheel for wheel in package.get("wheels", []) if parse_wheel_filename(_name(wheel))[3] & tags]
        if wheels:
            download += wheels[0].get("size", 0)
        else:
            (source if "sdist" in package else absent).append(package["name"])
    return Cell(download, glibc, tuple(source), tuple(absent))


def _name(wheel: dict[str, Any]) -> str:
    return str(wheel.get("name") or wheel["url"].rpartition("/")[2])


def _tags(python: tuple[int, int], platform: str, glibc: int) -> set[Tag]:
    names = [f"manylinux_2_{minor}_{platform}" for minor in range(glibc, 4, -1)]
    names += [f"manylinux{year}_{platform}" for year in ("2014", "2010", "1")]
    return {*cpython_tags(python, platforms=names), *compatible_tags(python, platforms=names)}


def _machine(python: tuple[int, int], platform: str) -> dict[str, str]:
    version = ".".join(map(str, python))
    return {
        "implementation_name": "cpython", "implementation_version": f"{version}.0", "os_name": "posix",
        "platform_machine": platform, "platform_release": "", "platform_system": "Linux", "platform_version": "",
        "python_full_version": f"{version}.0", "platform_python_implementation": "CPython", "python_version": version,
        "sys_platform": "linux",
    }  # fmt: skip


def main(names: list[str]) -> int:
    """Print the table; returns how many cells lack a package."""
    lacking = 0
    print("| environment | platform |", *(f"{major}.{minor} |" for major, minor in PYTHONS))
    print("|---|---|---|---|---|")
    for name in names:
        files = packages(name)
        for platform in PLATFORMS:
            cells = [cell(files, python, platform) for python in PYTHONS]
            print(f"| {name} | {platform} |", *(f"{each} |" for each in cells), flush=True)
            lacking += sum(bool(each.absent) for each in cells)
    return lacking


if __name__ == "__main__":
    lists = sorted(file.stem for file in (ROOT / "envs").glob("*.txt") if not file.stem.endswith(".overrides"))
    sys.exit(bool(main(sys.argv[1:] or lists)))
