"""Pin the environments of pyproject.toml (those named, else all) in envs/<name>.txt: versions only, no addresses.

Each is the dependency group of its name; `control` is what the project itself depends on, and `dev` has it too.

Each list is for every Python and platform (`--universal`), and the same wherever it is made: local wheels are not looked
at. What only a GPU build of torch asks for is left out, since another build asks for other packages.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA = re.compile(r"(cuda|nvidia)-|triton$")
CONTROL, DEV = "control", "dev"
PIN = re.compile(r"(?P<pin>(?P<name>[\w.-]+)==.*?)\s*# via (?P<via>.*)")


def asked(group: str) -> list[str]:
    """What uv is to pin, as its arguments."""
    own = ["pyproject.toml"] if group in (CONTROL, DEV) else []
    return own if group == CONTROL else [*own, "--group", group]


def compiled(group: str) -> list[re.Match[str]]:
    """The pins of a group, each with the packages that asked for it; versions of today's list are kept where they fit."""
    out, overrides = ROOT / f"envs/{group}.txt", ROOT / f"envs/{group}.overrides.txt"
    command: list[str | Path] = [
        Path(sys.executable).with_name("uv"),
        "pip",
        "compile",
        "--quiet",
        *asked(group),
        "--universal",
    ]
    command += ["--python-version", "3.11", "--no-header", "--annotation-style", "line", "--output-file", out]
    command += ["--no-emit-index-url", "--overrides", overrides] if overrides.exists() else ["--no-emit-index-url"]
    environ = {name: value for name, value in os.environ.items() if name not in ("UV_FIND_LINKS", "UV_TORCH_BACKEND")}
    subprocess.run(command, cwd=ROOT, env=environ, check=True)
    return [found for line in out.read_text().splitlines() if (found := PIN.fullmatch(line))]


def asked_by_torch(pins: list[re.Match[str]]) -> set[str]:
    """CUDA's packages that nothing asks for but torch and each other."""
    asked = set[str]()
    while True:
        only = {
            pin["name"] for pin in pins if set(pin["via"].split(", ")) <= {"torch", *asked} and CUDA.match(pin["name"])
        }
        if only <= asked:
            return asked
        asked |= only


pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
for group in sys.argv[1:] or [CONTROL, *pyproject["dependency-groups"]]:
    pins = compiled(group)
    one_build = pyproject["tool"]["qforge"]["envs"].get(group, {}).get("torch") == "pypi"
    left_out = set() if one_build else asked_by_torch(pins)
    file = ROOT / f"envs/{group}.txt"
    file.write_text("".join(f"{pin['pin']}\n" for pin in pins if pin["name"] not in left_out))
    print(file.relative_to(ROOT), f"({len(left_out)} left out: torch's own)" if left_out else "")
