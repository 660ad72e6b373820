"""Several hosts with one network file system on one machine: network namespaces, each with its own mount of a GlusterFS volume.

GlusterFS is a network file system in user space whose server gives flock to all clients, as NFS does. For NFS itself the kernel
must have its client, which those of many virtual machines and containers lack. Needs root, iproute2, util-linux, and glusterfsd
and glusterfs (Debian: glusterfs-server). Addresses are of 198.18.0.0/15, which RFC 2544 sets aside for tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("ip", "nsenter", "unshare", "glusterfsd", "glusterfs")
SERVER = """\
volume disk
  type storage/posix
  option directory {folder}/disk
end-volume
volume locks
  type features/locks
  subvolumes disk
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.bind-address {address}
  option auth.addr.locks.allow *
  option transport.socket.listen-port {port}
  subvolumes locks
end-volume
"""
CLIENT = """\
volume client
  type protocol/client
  option transport-type tcp
  option remote-host {address}
  option remote-port {port}
  option remote-subvolume locks
end-volume
"""
ADDRESS, PORT = "198.18.23.{}", 24100
PATIENCE = 30.0  # seconds for a mount to be there
# what one host has renamed, another sees at once: lookupcache=positive of NFS (qforge/store/results.py)
SEEN_AT_ONCE = ("--entry-timeout=0", "--attribute-timeout=0", "--negative-timeout=0")


@dataclass(frozen=True)
class Host:
    """A network namespace with a mount of its own."""

    name: str
    holder: int  # the process of its mount, whose namespaces are the host's
    shared: Path  # where the volume is, on every host

    @property
    def enter(self) -> list[str]:
        """What to put before a command that shall run there."""
        return ["nsenter", f"--target={self.holder}", "--net", "--mount"]

    def die(self) -> None:
        """Every process on it is killed, its mount's too: to the server, the host has gone."""
        for pid in _said("ip", "netns", "pids", self.name).split():
            os.kill(int(pid), signal.SIGKILL)


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[list[Host]]:
    """So many of them; the volume is `folder`/shared on each, its files `folder`/disk here. Raises ValueError without tools."""
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing or os.getuid():
        raise ValueError(f"--hosts: needs root, and {', '.join(NEEDED)}; missing: {', '.join(missing) or 'root'}")
    for name in ("disk", "shared"):
        (folder / name).mkdir(parents=True)
    server = ADDRESS.format(1)
    (folder / "server.vol").write_text(SERVER.format(folder=folder, address=server, port=PORT))
    (folder / "client.vol").write_text(CLIENT.format(address=server, port=PORT))
    bridge = f"qf{os.getpid()}"
    with ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("address", "add", f"{server}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        stack.enter_context(_running("glusterfsd", "-f", folder / "server.vol", "-l", folder / "server.log", "-N"))
        yield [stack.enter_context(_host(folder, bridge, number)) for number in range(count)]


@contextmanager
def _host(folder: Path, bridge: str, number: int) -> Iterator[Host]:
    name, outside = f"{bridge}-{number}", f"{bridge}v{number}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", bridge, "up")
        _ip("-n", name, "address", "add", f"{ADDRESS.format(number + 2)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", name, "link", "set", device, "up")
        log = folder / f"{name}.log"
        mount = ["glusterfs", "-f", folder / "client.vol", "-l", log, "-N", *SEEN_AT_ONCE, folder / "shared"]
        with _running("ip", "netns", "exec", name, *mount) as holder:  # it execs: the process is the mount's
            host = Host(name, holder.pid, folder / "shared")
            deadline = time.monotonic() + PATIENCE
            while subprocess.run([*host.enter, "mountpoint", "-q", host.shared], check=False).returncode:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield host
    finally:
        _ip("netns", "del", name)


@contextmanager
def _running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
