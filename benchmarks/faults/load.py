"""Load: a store of 100,000 results listed and freed, a report of 10,000 rows, 16 jobs at once on one store.

    .venv/bin/python benchmarks/faults/load.py [--results 100000] [--rows 10000] [--jobs 16] [--model FOLDER]

Prints seconds of each. The rows are the committed ones (results/*.json), again and again under other names; the jobs quantize
tiny.py's model by one method in one store and each say which result it was: ends with 1 where one was made twice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import command  # first: it puts the checkout on sys.path

PROGRAM = (sys.executable, str(command.ROOT / "run.py"))


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - started:.1f} s", flush=True)


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


def of_jobs(top: Path, count: int, model: Path | None) -> int:
    """So many jobs at once. Returns how many results were made more than once."""
    if model is None:
        model = top / "model"
        tiny = Path(__file__).with_name("tiny.py")
        subprocess.run([command.ROOT / ".venvs/quant/bin/python", tiny, model], check=True)
    job = [
        "model=local",
        "model.name=tiny",
        f"model.path={model}",
        "method=rtn",
        "stages=[quantize,inspect]",
        f"store={top}/jobs",
    ]
    with timed(f"{count} jobs at once"):
        running = [
            subprocess.Popen([*PROGRAM, *job, f"hydra.run.dir={top}/run/{number}"], stdout=subprocess.DEVNULL)
            for number in range(count)
        ]
        codes = [process.wait() for process in running]
    logs = list((top / "run").glob("*/quantize.log"))
    made = {
        json.dumps(json.loads((top / f"run/{number}/quantize.json").read_text())["made"]) for number in range(count)
    }
    print(f"    exit codes {sorted(set(codes))}, {len(logs)} quantized, {len(made)} result")
    return int(set(codes) != {0} or len(logs) != 1 or len(made) != 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--model", type=Path, help="a folder that tiny.py has made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qforge-load-") as top:
        of_store(Path(top), options.results)
        of_report(Path(top), options.rows)
        return of_jobs(Path(top), options.jobs, options.model)


if __name__ == "__main__":
    sys.exit(main())
