"""Power cut: what a disk holds at random moments of a run, and whether anything there looks finished that is not.

    .venv/bin/python benchmarks/faults/power.py [--cuts 20] [--seed 0] [--model FOLDER]       as root: it mounts

The store and the run's folder lie on an ext4 of their own whose blocks are a file in memory, mounted so that the kernel
writes nothing by itself for ten minutes (commit=600): the file has what was synced, and nothing else need be there. At
each moment the run is stopped (SIGSTOP), the file copied and the run goes on; the copy is then mounted, which recovers
it as after a power cut. In it everything with its final name must be whole: JSON that reads, and of a result every file,
with the bytes that it has at the end. Ends with 1 where something is not. `--careless` makes os.fsync do nothing, to show
that the test can fail.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import command  # first: it puts the checkout on sys.path
import psutil
from model import tiny_model

MIB = 96
MEMORY = Path("/dev/shm")


@contextmanager
def mounted(image: Path, folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", f"loop,{options}", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def run(disk: Path, model: Path, careless: Path | None) -> subprocess.Popen[bytes]:
    job = ["model=local", "model.name=tiny", f"model.path={model}", "method=rtn", "stages=[quantize,inspect]"]
    program = [sys.executable, str(command.ROOT / "run.py"), *job, f"store={disk}/store", f"hydra.run.dir={disk}/run"]
    environ = {**os.environ, **({"PYTHONPATH": str(careless)} if careless else {})}
    return subprocess.Popen(program, stdout=subprocess.DEVNULL, env=environ, start_new_session=True)


def cuts(process: subprocess.Popen[bytes], image: Path, top: Path, moments: list[float]) -> Iterator[Path]:
    """Copies of the disk at these seconds after the start."""
    started = time.monotonic()
    for number, moment in enumerate(moments):
        while process.poll() is None and time.monotonic() - started < moment:
            time.sleep(0.02)
        everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in everybody:
            each.send_signal(signal.SIGSTOP)
        copy = top / f"cut-{number}.img"
        shutil.copyfile(image, copy)
        for each in everybody:
            each.send_signal(signal.SIGCONT)
        yield copy
        if process.poll() is not None:
            return
    process.wait()


def whole(disk: Path) -> dict[str, str]:
    """Hashes of what must not differ from the end: everything below a folder of the store with its final name."""
    results = [folder for folder in (disk / "store").glob("*/*") if folder.is_dir() and not folder.suffix]
    files = [file for folder in results for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(disk)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def faults(disk: Path, end: dict[str, str]) -> Iterator[str]:
    """What looks finished and is not."""
    found = whole(disk)
    folders = {name.split("/")[2]: name.split("/")[1] for name in found}
    for key, stage in folders.items():
        wanted = {name for name in end if name.startswith(f"store/{stage}/{key}/")}
        yield from (f"{name} is not there" for name in sorted(wanted - found.keys()))
        yield from (f"{name} differs" for name in sorted(wanted & found.keys()) if found[name] != end[name])
    for file in disk.glob("run/**/*.json"):
        try:
            json.loads(file.read_text())
        except ValueError:
            yield f"{file.relative_to(disk)} is no JSON ({file.stat().st_size} bytes)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--careless", action="store_true")
    parser.add_argument("--model", type=Path, help="a folder that tiny.py has made")
    options = parser.parse_args()
    draw, taken, found = random.Random(options.seed), 0, list[str]()
    with tempfile.TemporaryDirectory(prefix="qforge-power-", dir=MEMORY) as folder:
        top, careless = Path(folder), None
        model = tiny_model(options.model or top / "model")
        if options.careless:
            careless = top / "careless"
            careless.mkdir()
            (careless / "sitecustomize.py").write_text("import os\nos.fsync = lambda descriptor: None\n")
        length = 0.0
        while taken < options.cuts:
            image = top / "disk.img"
            image.unlink(missing_ok=True)
            with image.open("wb") as stream:
                stream.truncate(MIB << 20)
            subprocess.run(["mkfs.ext4", "-q", image], check=True)
            moments = sorted(draw.uniform(0, length) for _ in range(min(5, options.cuts - taken))) if length else []
            with mounted(image, top / "disk", "commit=600") as disk:
                started = time.monotonic()
                process = run(disk, model, careless)
                copies = list(cuts(process, image, top, moments))
                process.wait()
                assert process.returncode == 0, process.returncode
                if moments:
                    shutil.copyfile(image, last := top / "cut-end.img")  # the run has said that all is done
                    copies.append(last)
                length, end = length or time.monotonic() - started, whole(disk)
            for copy in copies:
                with mounted(copy, top / "copy", "noatime") as disk:
                    found += (wrong := [f"{copy.stem}: {fault}" for fault in faults(disk, end)])
                    if copy.stem == "cut-end" and (missing := end.keys() - whole(disk).keys()):
                        found += (wrong := [f"at the end {name} is not there" for name in sorted(missing)])
                    print(
                        f"{copy.stem}: {len(whole(disk))} of {len(end)} files of results, {len(wrong)} faults",
                        flush=True,
                    )
                copy.unlink()
            taken += len(moments)
    print("\n".join(found))
    print(f"{taken} power cuts, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
