"""uv, which lies in the control environment and installs packages; what it says when it cannot, in one line with the fix."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from qforge.envs.process import Environment, StageError, process

DISK_FULL = "No space left on device"
CERTIFICATE = "invalid peer certificate"  # a proxy of the network that reads along signs with an authority of its own
NETWORK = re.compile(r"error sending request|dns error|Could not connect|Connection refused|timed out|offline", re.I)
ABSENT = re.compile(r"(?:Because|there is no version of) (\S+) (?:was not found in|and you require)")
NO_BUILD = re.compile(r"(?:Because|Failed to build) `?([^\s`]+)`? (?:has no (?:usable )?wheels|cause: )")


def wheel_folders() -> dict[str, str]:
    """The variable by which uv finds local wheels where pip finds them; empty where the user names no folder."""
    folders = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    return {"UV_FIND_LINKS": folders} if folders else {}


def run(arguments: list[str], log: Path, environ: Mapping[str, str | None] | None = None) -> str:
    """Run uv; what it says is added to `log`. Returns that if it failed, and nothing if it did not."""
    here = Environment(Path(sys.executable), "control", None)
    return output_of_failed(here, ["-m", "uv", *arguments], log, {**wheel_folders(), **(environ or {})})


def output_of_failed(here: Environment, arguments: list[str], log: Path, environ: Mapping[str, str | None]) -> str:
    """What a command says, on one line, if it fails; nothing if it succeeds. `log` has it in any case."""
    with log.open("ab") as output:
        start = output.tell()
        with process(here, arguments, environ, output.fileno()) as child:
            code = child.wait()
    return " ".join(log.read_bytes()[start:].decode(errors="replace").split()) if code else ""


def failure(subject: str, output: str, log: Path, instead: str) -> Exception:
    """The error for the output of uv: `subject` is the key that asked for it, `instead` what to do without a package."""
    python = f"Python {platform.python_version()} on {platform.machine()}"
    if DISK_FULL in output:
        where = f"{log.parent}, or uv's cache (UV_CACHE_DIR gives its folder)"
        return ValueError(f"{subject}: the disk is full ({where}); free some space and run again  (log: {log})")
    if CERTIFICATE in output:
        return ValueError(
            f"{subject}: the certificate of the package index is not trusted; set UV_SYSTEM_CERTS=1 to trust what this machine "
            f"trusts, or SSL_CERT_FILE to the authority's certificate  (log: {log})"
        )
    if NETWORK.search(output):
        return ValueError(
            f"{subject}: the package index cannot be reached; run `make envs` once with a network (where there is no Makefile: "
            f"`qforge envs NAME`), or set UV_DEFAULT_INDEX to an index that can be reached  (log: {log})"
        )
    if match := ABSENT.search(output):
        return ValueError(
            f"{subject}: the package index has no {match[1]}; set UV_DEFAULT_INDEX to a complete index, or, if it lacks "
            f"only CUDA packages, set UV_FIND_LINKS to a folder with a CPU build of torch  (log: {log})"
        )
    if match := NO_BUILD.search(output):
        return ValueError(f"{subject}: {match[1]} has no build for {python}; {instead}  (log: {log})")
    return StageError(f"{subject}: uv failed: {output[-400:]}  (log: {log})")


def install_packages(key: str, packages: list[str], folder: Path, log: Path) -> None:
    """Unpack pinned PyPI packages, which `key` of the job names, into `folder`, without their dependencies. Raises ValueError
    where it cannot."""
    if output := run(["pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages], log):
        raise failure(f"{key}={packages}", output, log, "give a package that has such a build, or use model=local")
