"""Run by an interpreter that is somebody's own: print a hash of what it finds to import, without importing any of it.

Needs the standard library only, and nothing of qforge. An installed package is known by the hashes of its files, which its
RECORD has; what is imported from a checkout, or has no RECORD, by the size and time of its files: a vLLM that is built anew
has new libraries under the old version.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

ENGINE = "vllm"  # found in a checkout on PYTHONPATH, it may have no metadata at all
OWN = "qforge"  # what is done with it decides, and its code is in the keys by itself


def identities() -> Iterator[str]:
    """One line per package."""
    names = set()
    for package in distributions():
        name = package.metadata["Name"]
        if name and name != OWN:
            names.add(name)
            yield from identity(name, package)
    if ENGINE not in names:
        yield from files(ENGINE)


def identity(name: str, package: Distribution) -> Iterator[str]:
    record = [line for line in (package.read_text("RECORD") or "").splitlines() if ",sha256=" in line]
    yield repr([name, package.version, sorted(record)])
    direct = json.loads(package.read_text("direct_url.json") or "{}")
    if not record or direct.get("dir_info", {}).get("editable"):
        for module in (package.read_text("top_level.txt") or name.replace("-", "_")).split():
            yield from files(module)


def files(module: str) -> Iterator[str]:
    """Size and time of every source and library of a top-level module."""
    spec = importlib.util.find_spec(module)
    for root in (spec.submodule_search_locations or []) if spec else []:
        for folder, _, names in os.walk(root):
            for name in names:
                if name.endswith((".py", ".so")):
                    status = os.stat(os.path.join(folder, name))
                    yield repr([folder, name, status.st_size, status.st_mtime_ns])


if __name__ == "__main__":
    print(hashlib.sha256("\n".join(sorted(identities())).encode()).hexdigest()[:12])
