"""Kill -9 a random process of a run at a random moment, run it again, and so on; then compare what came of it.

    .venv/bin/python benchmarks/faults/death.py [--kills 20] [--seed 0] [--kinds plan,stream,...] [--model FOLDER]
    .venv/bin/python benchmarks/faults/death.py [--kills 20] [--fetched .store] OVERRIDE ...       a sweep of one's own

The same run goes undisturbed first, in a store of its own. Each time the disturbed one gets to its end it begins again with
an empty store, until there were so many kills. Without overrides these are runs of several kinds (KINDS), the kills shared
out among them; the model is the one of tiny.py. Ends with 1 if weights or scores differ, or if a process, a lock that is
held, half a result or a piece of shared memory is left. Others share /dev/shm, so it is looked at only where it is empty at
the start: as root by `unshare --mount sh -c 'mount -t tmpfs tmpfs /dev/shm && .venv/bin/python benchmarks/faults/death.py'`.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from model import tiny_model

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path("/dev/shm")
BRIEF = ("calib.sequences=2", "calib.length=64")
MADE = "stages=[quantize,inspect]"
KINDS = {  # what runs, and which share of the kills it gets
    "plan": (("method=rtn", "plan_only=true"), 10),
    "stream": (("method=rtn", MADE), 20),
    "calibrated": (("method=gptq", *BRIEF, MADE), 20),
    "sensitivity": (("method=rtn", "exempt=from_sensitivity", "sensitivity.budget_gib=0.0001", "sensitivity.windows=1",
                     "sensitivity.length=64", MADE), 15),
    "sweep": (("--multirun", "method=rtn", "group_size=32,64", MADE), 20),
    "slurm": (("--multirun", "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1",
               "method=rtn", "group_size=32,64", MADE), 10),
    "served": (("method=rtn", "eval=quick", "bench=quick"), 5),
}  # fmt: skip
PATIENCE = 60  # seconds in which whatever a killed process leaves behind must be gone
APART = 0.005  # of a perplexity: as far as the order in which requests arrive may move it


class Runs:
    """One command, run again and again in the same store; every process it ever had is remembered."""

    def __init__(self, folder: Path, overrides: list[str], fetched: Path | None = None) -> None:
        self.folder, self.store, self.fetched = folder / "run", folder / "store", fetched
        self.sweep = "--multirun" in overrides
        self.cluster = "hydra/launcher=slurm" in overrides
        where = "hydra.sweep.dir" if self.sweep else "hydra.run.dir"
        flags = ["--multirun"] if self.sweep else []
        keys = [
            *(override for override in overrides if override not in flags),
            f"store={self.store}",
            f"{where}={self.folder}",
        ]
        self.command = [sys.executable, str(ROOT / "run.py"), *flags, *keys]
        self.seen: set[psutil.Process] = set()
        self.alone = SHARED.is_dir() and not any(SHARED.iterdir())
        self.empty()

    def empty(self) -> None:
        """Begin with nothing but the model."""
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.store.mkdir(parents=True)
        if self.fetched:
            shutil.copytree(self.fetched / "fetch", self.store / "fetch", copy_function=shutil.copy2)  # with its times

    def run(self, kill_after: float = math.inf, choice: random.Random | None = None) -> str | None:
        """Run it; returns which process was killed, or none where it came to its end before."""
        started, victim = time.monotonic(), None
        with subprocess.Popen(self.command, cwd=self.store.parent, stdout=subprocess.DEVNULL) as process:
            runner = psutil.Process(process.pid)
            while process.poll() is None:
                alive = [runner, *_below(runner), *(self._jobs() if self.cluster else [])]
                self.seen.update(alive)
                if choice and victim is None and time.monotonic() - started > kill_after:
                    victim = _kill(choice.choice(alive))
                time.sleep(0.1)
        while self.cluster and self._jobs():  # they are SLURM's, and outlive who has submitted them
            time.sleep(0.5)
        return victim

    def _jobs(self) -> list[psutil.Process]:
        """Of a sweep on SLURM, the processes of its jobs."""
        ours = [p for p in psutil.process_iter(["cmdline"]) if str(self.folder) in " ".join(p.info["cmdline"] or [])]
        own = {child.pid for child in psutil.Process().children()}
        jobs = [p for p in ours if p.pid not in own and "run.py" not in " ".join(p.info["cmdline"])]
        return [*jobs, *(child for job in jobs for child in _below(job))]

    def left(self) -> Iterator[str]:
        """What outlives it: processes, held locks, shared memory."""
        self.seen = set(psutil.wait_procs(self.seen, timeout=PATIENCE)[1])
        yield from (f"{process} is left" for process in self.seen)
        held = {line.split()[5].rpartition(":")[2] for line in Path("/proc/locks").read_text().splitlines()}
        files = [*self.store.rglob("*.lock"), *self.store.rglob("*.used")]
        yield from (f"{file} is locked" for file in files if str(file.stat().st_ino) in held)
        yield from (f"{file} is left" for file in SHARED.iterdir() if self.alone)

    def halves(self) -> list[str]:
        """What was begun and not finished, in the store and in the rows' folders."""
        return [str(f) for top in (self.store, self.folder) for f in top.rglob("*.partial")]

    def rows(self) -> dict[str, dict[str, Any]]:
        """What must not depend on who was killed: plan, weights, scores; by job."""
        jobs = sorted(self.folder.iterdir()) if self.sweep else [self.folder]
        return {job.name: dict(_facts(job, self.store)) for job in jobs if (job / "plan.json").exists()}


def _below(process: psutil.Process) -> list[psutil.Process]:
    """Its children, and theirs; none of one that has gone."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


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


def _facts(job: Path, store: Path) -> Iterator[tuple[str, Any]]:
    yield "plan", (job / "plan.json").read_text().replace(str(store), "")  # in which the model lies
    row = json.loads((job / "row.json").read_text()) if (job / "row.json").exists() else {}
    yield "failed", row.get("failed")
    for file in sorted((job / "artifact").glob("*.safetensors")):
        yield file.name, hashlib.sha256(file.read_bytes()).hexdigest()
    for file in sorted(job.glob("sensitivity.json")):
        yield from ((f"loss of {part}", loss) for part, loss in _losses(json.loads(file.read_text())))
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


def _losses(said: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of sensitivity.json that say what a part loses; not when, and in how many seconds, they were measured."""
    parts = said.items() if isinstance(said, dict) else enumerate(said) if isinstance(said, list) else ()
    for key, value in parts:
        if key not in ("made", "seconds"):
            yield from [(f"{where}/{key}", value)] if isinstance(value, float) else _losses(value, f"{where}/{key}")


def main() -> int:
    """Run, kill, compare, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fetched", type=Path, help="a store that has the model already")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--model", type=Path, help="a folder that tiny.py has made")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    choice = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="qforge-kill-") as top:
        if given.overrides:
            return disturb(Path(top), given.kills, choice, ["--multirun", *given.overrides], given.fetched)
        return several(Path(top), given.kills, choice, given.kinds.split(","), given.model)


def several(top: Path, kills: int, choice: random.Random, kinds: list[str], model: Path | None) -> int:
    """Runs of each kind, the kills shared out. Returns the exit code."""
    model = tiny_model(model or top / "model")
    shares = sum(KINDS[kind][1] for kind in kinds)
    code = 0
    for kind in kinds:
        overrides, share = KINDS[kind]
        print(f"{kind}:", flush=True)
        with ExitStack() as stack:
            if kind == "slurm":
                sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
                from support import cluster

                stack.enter_context(cluster.slurm(cores=2))
            local = ["model=local", "model.name=tiny", f"model.path={model}", *overrides]
            code |= disturb(top / kind, max(1, round(kills * share / shares)), choice, local, None)
    return code


def disturb(top: Path, kills: int, choice: random.Random, overrides: list[str], fetched: Path | None) -> int:
    """The undisturbed run, then the kills. Returns the exit code."""
    calm, disturbed = Runs(top / "calm", overrides, fetched), Runs(top / "disturbed", overrides, fetched)
    started = time.monotonic()
    calm.run()
    length, expected = time.monotonic() - started, calm.rows()
    print(f"undisturbed: {length:.0f} s, {len(expected)} rows", flush=True)
    assert expected, "a run without rows proves nothing"
    assert not any(facts.get("failed") for facts in expected.values()), expected
    victims, faults, worst, rounds = Counter[str](), list[str](), 0.0, 0
    done = False
    while not done:
        enough = victims.total() >= kills
        after = math.inf if enough else choice.uniform(0, length)
        victim = disturbed.run(after, choice)
        faults += [f"after {victim}: {left}" for left in disturbed.left()]
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
