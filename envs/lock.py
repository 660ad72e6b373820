"""Pin dependency groups of pyproject.toml (those named, else all) in envs/<group>.txt: versions only, no addresses."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
uv = Path(sys.executable).with_name("uv")
environ = dict(os.environ)
if "PIP_FIND_LINKS" in environ:
    environ.setdefault("UV_FIND_LINKS", environ["PIP_FIND_LINKS"])
for group in sys.argv[1:] or tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]:
    out, overrides = ROOT / f"envs/{group}.txt", ROOT / f"envs/{group}.overrides.txt"
    command = [uv, "pip", "compile", "--quiet", "--group", group, "--python-version", "3.11", "--output-file", out]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command += [
        "--upgrade-package",
        "torch",
    ]  # not the plain version pinned before, but the local build if there is one
    command += ["--overrides", overrides] if overrides.exists() else []
    command += ["--python-platform", "x86_64-manylinux_2_28"] if group == "vllm" else []  # its kernels are for Linux
    subprocess.run(command, cwd=ROOT, env=environ, check=True)
    # a local CPU build has a version of its own (2.13.0+cpu); the plain one admits it and every other build
    out.write_text(re.sub(r"^(torch==[\d.]+)\+cpu$", r"\1", out.read_text(), flags=re.M))
    print(out.relative_to(ROOT))
