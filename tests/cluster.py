"""A SLURM of one node in a folder, on the loopback only: real daemons, as any user, gone at the end.

.venv/bin/python tests/cluster.py COMMAND ...       runs COMMAND with that SLURM, where SLURM and munge are installed
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")))  # sockets: short
        folder.chmod(0o755)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [s.getsockname()[1] for s in sockets]
        for s in sockets:
            s.close()
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=folder, ports=ports, user=getpass.getuser(), host=socket.gethostname().split(".")[0], cores=cores
            )
        )
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        stack.callback(_restore, before)
        own = [f"--{what}-file={folder}/munge.{what}" for what in ("key", "log", "pid", "seed")]
        stack.enter_context(
            _daemon(folder, "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *own)
        )
        _until("munge.socket", (folder / "munge.socket").exists)
        stack.enter_context(_daemon(folder, "slurmctld", "-D", "-i"))
        stack.enter_context(_daemon(folder, "slurmd", "-D", "-N", "localhost"))
        _until("idle", lambda: "idle" in _said("sinfo", "--noheader", "--format=%T"))
        yield


def _restore(before: str | None) -> None:
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


@contextmanager
def _daemon(folder: Path, name: str, *arguments: str) -> Iterator[None]:
    program = find(name)
    assert program, f"{name} is not installed"
    with (folder / f"{name}.log").open("w") as log:
        child = subprocess.Popen([program, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield
        assert child.poll() is None, (folder / f"{name}.log").read_text()
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def find(daemon: str) -> str | None:
    """Where a daemon lies; few users have its folder on PATH."""
    return shutil.which(daemon, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _until(what: str, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"SLURM: waited in vain for {what}"
        time.sleep(0.1)


if __name__ == "__main__":
    with slurm(cores=4):
        sys.exit(subprocess.run(sys.argv[1:]).returncode)
