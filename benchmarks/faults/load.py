"""Load: a store of 100,000 results listed and freed, a report of 10,000 rows, 16 jobs at once on one store.

    .venv/bin/python benchmarks/faults/load.py [--results 100000] [--rows 10000] [--jobs 16] [--hosts 0] [--model FOLDER]

Prints seconds of each, and of CPU, which other work on the machine changes less; none of what has the count 0. The rows are the
committed ones (results/*.json), again and again under other names; the jobs quantize tiny.py's model by a method in one store,
inspect what was made, and each say which result it was: ends with 1 where one was made twice. With `--hosts 4` the jobs are
spread over so many hosts whose store is on a network file system (hosts.py), as root; then a host dies while its job quantizes,
and a job on another must come to the same result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import command  # first: it puts the checkout on sys.path
from hosts import Host
from hosts import hosts as hosts_of
from model import tiny_model

WAITS = 3.0  # seconds that the job beside it has to come to the lock
PROGRAM = (sys.executable, str(command.ROOT / "run.py"))


@contextmanager
def timed(what: str) -> Iterator[None]:
    started, used = time.monotonic(), _cpu()
    yield
    print(f"{what}: {time.monotonic() - started:.1f} s, {_cpu() - used:.1f} s of CPU", flush=True)


def _cpu() -> float:
    """Seconds of this process and of those that have ended."""
    return sum(os.times()[:4])


def fill(store: Path, count: int) -> None:
    """So many results of four stages, each as small as they get."""
    stages = ("evaluate", "bench", "serve", "quantize")
    for number in range(count):
        folder = store / stages[number % len(stages)] / f"{number:016x}"
        folder.mkdir(parents=True)
        made = {
            "date": "2026-01-01",
            "machine": {"cpu": "x"},
            "qforge": {"commit": "0" * 40},
            "seconds": 1,
            "subject": "tiny, rtn",
        }
        for name, content in (("key.json", {"number": number}), ("made.json", made), ("result.json", {"a": 1})):
            (folder / name).write_text(json.dumps(content))


def of_store(top: Path, count: int) -> None:
    store = top / "store"
    with timed(f"{count} results written (no part of qforge)"):
        fill(store, count)
    for what, arguments in {
        f"{count} results listed": ["list"],
        f"{count // 4} of them freed": ["free", "--stage", "bench"],
        "the rest freed": ["free", "--older", "0"],
    }.items():
        with timed(what):
            said = subprocess.run(
                [*PROGRAM, "store", *arguments, "--store", store], capture_output=True, text=True, check=True
            )
        print(f"    {said.stdout.strip().splitlines()[-1]}")


def of_report(top: Path, count: int) -> None:
    rows = [json.loads(file.read_text()) for file in sorted((command.ROOT / "results").glob("*-*.json"))]
    rows = [row for row in rows if "conditions" in row]
    for number in range(count):
        (top / f"row-{number}.json").write_text(json.dumps({**rows[number % len(rows)], "group_size": number}))
    files = [str(top / f"row-{number}.json") for number in range(count)]
    with timed(f"a report of {count} rows"):
        subprocess.run([*PROGRAM, "report", top / "page.html", *files], check=True, capture_output=True)
    print(f"    {(top / 'page.html').stat().st_size / 1e6:.1f} MB")


def of_jobs(top: Path, count: int, model: Path, hosts: list[Host]) -> int:
    """So many jobs at once, on these hosts in turn, or here. Returns 1 where a result was made more than once."""
    store = hosts[0].shared / "store" if hosts else top / "jobs"
    with timed(f"{count} jobs at once{f' on {len(hosts)} hosts' if hosts else ''}"):
        running = [
            start(job(model, store, top / f"run/{number}"), hosts[number % len(hosts)] if hosts else None)
            for number in range(count)
        ]
        codes = [process.wait() for process in running]
    logs = list((top / "run").glob("*/quantize.log"))
    folders = [top / f"run/{number}" for number in range(count)]
    made = {json.dumps(json.loads((folder / "quantize.json").read_text())["made"]) for folder in folders}
    print(f"    exit codes {sorted(set(codes))}, {len(logs)} quantized, {len(made)} result")
    return int(set(codes) != {0} or len(logs) != 1 or len(made) != 1)


def of_dead_host(top: Path, model: Path, hosts: list[Host]) -> int:
    """The first host dies while its job quantizes; one on the second waits for it. Returns 1 where that one does not end."""
    store, begun = hosts[0].shared / "other", hosts[0].shared.parent / "disk/other/quantize"
    process = start(job(model, store, top / "dead"), hosts[0])
    while process.poll() is None and not list(begun.glob("*.partial")):
        time.sleep(0.05)
    other = start(job(model, store, top / "other"), hosts[1])
    time.sleep(WAITS)
    hosts[0].die()
    process.wait()
    with timed("a host died while it quantized; the next one"):
        code = other.wait()
    left = [file.name for file in begun.glob("*.partial")]
    print(f"    exit code {code}, {len(list(begun.glob('*/result.json')))} result, {len(left)} half ones left")
    return int(code != 0 or bool(left) or not (top / "other/quantize.log").exists())


def job(model: Path, store: Path, folder: Path) -> list[str]:
    source = ["model=local", "model.name=tiny", f"model.path={model}"]
    return [*source, "method=rtn", "stages=[quantize,inspect]", f"store={store}", f"hydra.run.dir={folder}"]


def start(overrides: list[str], host: Host | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*(host.enter if host else []), *PROGRAM, *overrides], stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--hosts", type=int, default=0)
    parser.add_argument("--model", type=Path, help="a folder that tiny.py has made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qforge-load-") as folder, ExitStack() as stack:
        top = Path(folder)
        if options.results:
            of_store(top, options.results)
        if options.rows:
            of_report(top, options.rows)
        if not options.jobs:
            return 0
        model = tiny_model(options.model or top / "model")
        hosts = stack.enter_context(hosts_of(top / "network", options.hosts)) if options.hosts else []
        code = of_jobs(top, options.jobs, model, hosts)
        return code | of_dead_host(top, model, hosts) if len(hosts) > 1 else code


if __name__ == "__main__":
    sys.exit(main())
