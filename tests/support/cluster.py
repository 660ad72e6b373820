"""A SLURM of one node in a folder, on the loopback only: real daemons, as any user, gone at the end."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import psutil
from support.processes import until

from qforge.config.places import ROOT
from qforge.envs.process import end_group

# Without accounting (slurmdbd, MariaDB): the harder case, since nothing remembers how a job ended.
# A requeued job waits for cred_expire seconds, two minutes by default.
CONFIG = """\
ClusterName=qforge
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


@contextmanager
def slurm(cores: int) -> Iterator[None]:
    """Have every SLURM command of this process and its children speak to a cluster of its own, of `cores` slots."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        stack.enter_context(patch.dict(os.environ, SLURM_CONF=str(_configure(folder, cores))))
        files = [f"--{what}-file={folder}/munge.{what}" for what in ("key", "log", "pid", "seed")]
        at = folder / "munge.socket"
        stack.enter_context(_daemon(folder, "munged", "--foreground", "--force", f"--socket={at}", *files))
        until(at.exists)
        stack.enter_context(_daemon(folder, "slurmctld", "-D", "-i"))
        stack.enter_context(_daemon(folder, "slurmd", "-D", "-N", "localhost"))
        sinfo = ["sinfo", "--noheader", "--format=%T"]
        until(lambda: "idle" in subprocess.run(sinfo, capture_output=True, text=True).stdout)
        yield


def _configure(folder: Path, cores: int) -> Path:
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    host = socket.gethostname().partition(".")[0]
    file = folder / "slurm.conf"
    file.write_text(CONFIG.format(folder=folder, ports=ports, user=getpass.getuser(), host=host, cores=cores))
    return file


@contextmanager
def _daemon(folder: Path, name: str, *arguments: str) -> Iterator[None]:
    """A daemon in the foreground, under the guard: it ends with this process, however that ends."""
    program = find(name)
    assert program, f"{name} is not installed"
    command = [sys.executable, "-m", "qforge.envs.guard", str(os.getpid()), "", program, *arguments]
    log = folder / f"{name}.log"
    with log.open("w") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=ROOT, start_new_session=True
        )
    try:
        yield
        assert child.poll() is None, log.read_text()
    finally:
        end_group(child)


def find(daemon: str) -> str | None:
    """Where a daemon lies; few users have its folder on PATH."""
    return shutil.which(daemon, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def said(*command: str) -> str:
    """What a command prints. Raises where it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def process_of(sweep: Path, job: int) -> psutil.Process:
    """What runs a job of the array of a sweep: the first of them, since what it starts looks like itself for a moment."""
    found = [
        process for process in psutil.process_iter(["cmdline"])
        if "submitit.core._submit" in (line := process.info["cmdline"] or []) and f"{sweep}/.submitit/%j" in line
        and "srun" not in line and process.environ()["SLURM_ARRAY_TASK_ID"] == str(job)
    ]  # fmt: skip
    return min(found, key=psutil.Process.create_time)
