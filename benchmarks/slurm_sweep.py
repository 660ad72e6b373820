"""A sweep on a real SLURM of one node, of whose jobs one is killed, one cancelled and one preempted; what its report says.

    python benchmarks/slurm_sweep.py OUT [key=value ...]       needs SLURM and munge (apt-get install slurm-wlm munge)

The sweep must have four jobs that quantize. It goes to OUT; printed are its own words, what was done to it, and each row.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import cluster

from qforge.json_files import read_json
from qforge.report.table import verdict_of

SWEEP = ["method=gptq", "calib.sequences=8", "group_size=32,64", "exempt=lm_head,boundary", "eval=quick", "bench=quick"]
LOCAL = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"]


def main() -> None:
    """Start it, disturb it, wait, tell."""
    out, overrides = Path(sys.argv[1]).absolute(), sys.argv[2:] or SWEEP
    command = [sys.executable, str(ROOT / "run.py"), "--multirun", f"hydra.sweep.dir={out}", *LOCAL, *overrides]
    started = time.monotonic()
    with cluster.slurm(cores=4):
        with subprocess.Popen(command, cwd=ROOT) as sweep:
            disturb(out)
        left = [p for p in cluster.said("ps", "-eo", "args").splitlines() if str(out) in p and "slurm_sweep" not in p]
    print(f"exit code {sweep.returncode} after {time.monotonic() - started:.0f} s; processes left: {len(left)}")
    for file in sorted(out.glob("*/row.json")):
        row = read_json(file)
        print(f"{file.parent.name} {verdict_of(row)}: {row.get('failed', {}).get('reason') or row['command']}")


def disturb(out: Path) -> None:
    """As soon as all quantize: kill job 0, cancel job 1, and preempt one of the two that are left."""
    for job in range(4):
        cluster.until((out / f"{job}" / "quantize.log").exists, 1200)
    array = cluster.said("squeue", "--noheader", "--format=%F").split()[0]
    cluster.process_of(out, 0).kill()
    cluster.said("scancel", f"{array}_1")
    cluster.until(lambda: len(cluster.said("squeue", "--noheader", "--array").splitlines()) == 2)
    print("job 0 was killed, job 1 cancelled")
    cluster.said("srun", "--partition=high", "--ntasks=3", "true")  # two of four slots are free
    logs = out.glob(".submitit/*/*.err")
    preempted = [log.parent.name.partition("_")[2] for log in logs if "this job is preempted" in log.read_text()]
    print(f"job {', '.join(preempted)} was preempted")


if __name__ == "__main__":
    main()
