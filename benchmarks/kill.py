"""Kill -9 a random process of a sweep at a random moment, run the sweep again, and so on; then compare what came of it.

    .venv/bin/python benchmarks/kill.py [--kills 20] [--seed 0] [--fetched .store] [OVERRIDE ...]

The same sweep runs undisturbed first, in a store of its own. Each time the disturbed one gets to its end it begins again with
an empty store, until there were so many kills. Ends with 1 if weights or scores differ, a process or half a result is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
SWEEP = ("method=rtn,nvfp4_llmc", "eval=quick", "bench=quick")
PATIENCE = 60  # seconds in which whatever a killed process leaves behind must be gone
APART = 0.005  # of a perplexity: as far as the order in which requests arrive may move it


class Sweep:
    """One command, run again and again in the same store; every process it ever had is remembered."""

    def __init__(self, folder: Path, overrides: list[str], fetched: Path | None) -> None:
        self.folder, self.store, self.fetched = folder / "sweep", folder / "store", fetched
        self.command = [sys.executable, str(ROOT / "run.py"), "--multirun", *overrides, f"store={self.store}",
                        f"hydra.sweep.dir={self.folder}"]  # fmt: skip
        self.seen: set[psutil.Process] = set()
        self.empty()

    def empty(self) -> None:
        """Begin with nothing but the model."""
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.store.mkdir(parents=True)
        if self.fetched:
            shutil.copytree(self.fetched / "fetch", self.store / "fetch", copy_function=shutil.copy2)  # with its times

    def run(self, kill_after: float = math.inf, choice: random.Random | None = None) -> str | None:
        """Run it; returns which process was killed, or none where the sweep came to its end before."""
        started, victim = time.monotonic(), None
        with subprocess.Popen(self.command, cwd=self.store.parent, stdout=subprocess.DEVNULL) as process:
            runner = psutil.Process(process.pid)
            while process.poll() is None:
                alive = [runner, *runner.children(recursive=True)]
                self.seen.update(alive)
                if choice and victim is None and time.monotonic() - started > kill_after:
                    victim = _kill(choice.choice(alive))
                time.sleep(0.1)
        return victim

    def orphans(self) -> list[psutil.Process]:
        """Processes of it that outlive it."""
        self.seen = set(psutil.wait_procs(self.seen, timeout=PATIENCE)[1])
        return list(self.seen)

    def halves(self) -> list[str]:
        """What was begun and not finished, in the store and in the rows' folders."""
        return [str(f) for top in (self.store, self.folder) for f in top.rglob("*.partial")]

    def rows(self) -> dict[str, dict[str, Any]]:
        """What must not depend on who was killed: verdict, weights, scores; by job."""
        return {job.name: dict(_facts(job)) for job in sorted(self.folder.iterdir()) if (job / "row.json").exists()}


def _kill(process: psutil.Process) -> str | None:
    """What it was, in a word; none where it was gone already."""
    try:
        words = process.cmdline()
        process.kill()
    except psutil.Error:
        return None
    if "qforge.envs.guard" in words:
        return "guard"
    if str(ROOT / "run.py") in words:
        return "runner"
    ours = [word.rpartition(".")[2] for word in words if word.startswith(("qforge.stages.", "qforge.runtimes."))]
    return [*ours, *(Path(word).name for word in words[:1]), "unnamed"][0]


def _facts(job: Path) -> Iterator[tuple[str, Any]]:
    row = json.loads((job / "row.json").read_text())
    yield "failed", row.get("failed")
    for file in sorted((job / "artifact").glob("*.safetensors")):
        yield file.name, hashlib.sha256(file.read_bytes()).hexdigest()
    for side in ("measured", "baseline"):
        for name, text in ((row.get(side) or {}).get("evaluate") or {}).get("texts", {}).items():
            yield f"{side} {name}", text["perplexity"]


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest relative difference of their numbers; infinite where anything else differs."""
    if one.keys() != other.keys():
        return math.inf
    numbers = [(value, other[key]) for key, value in one.items() if isinstance(value, float)]
    equal = all(other[key] == value for key, value in one.items() if not isinstance(value, float))
    return max((abs(a / b - 1) for a, b in numbers), default=0.0) if equal else math.inf


def main() -> int:
    """Run, kill, compare, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fetched", type=Path, help="a store that has the model already")
    parser.add_argument("overrides", nargs="*", default=SWEEP)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qforge-kill-") as top:
        return disturb(Path(top), given.kills, random.Random(given.seed), list(given.overrides), given.fetched)


def disturb(top: Path, kills: int, choice: random.Random, overrides: list[str], fetched: Path | None) -> int:
    """The undisturbed sweep, then the kills. Returns the exit code."""
    calm, disturbed = Sweep(top / "calm", overrides, fetched), Sweep(top / "disturbed", overrides, fetched)
    started = time.monotonic()
    calm.run()
    length, expected = time.monotonic() - started, calm.rows()
    print(f"undisturbed: {length:.0f} s, {len(expected)} rows", flush=True)
    assert expected, "a sweep without rows proves nothing"
    assert not any(facts["failed"] for facts in expected.values()), expected
    victims, faults, worst, rounds = Counter[str](), list[str](), 0.0, 0
    done = False
    while not done:
        enough = victims.total() >= kills
        after = math.inf if enough else choice.uniform(0, length)
        victim = disturbed.run(after, choice)
        faults += [f"after {victim}: {process} is left" for process in disturbed.orphans()]
        if victim:
            victims[victim] += 1
            print(f"{victims.total()}: {victim} killed after {after:.0f} s", flush=True)
            continue
        found, rounds, done = disturbed.rows(), rounds + 1, enough
        differences = {name: apart(row, found.get(name, {})) for name, row in expected.items()}
        worst = max(worst, *differences.values())
        faults += [f"round {rounds}: row {name} differs" for name, by in differences.items() if by > APART]
        faults += [f"round {rounds}: {half} is left" for half in disturbed.halves()]
        disturbed.empty()
    print(f"{kills} kills in {rounds} rounds: {dict(victims)}; scores at most {worst:.2e} apart; {len(faults)} faults")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
