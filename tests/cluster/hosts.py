"""Two hosts with their own names, addresses and network stacks on one machine, and the switch between them.

A host is a process that keeps network and host-name namespaces alive. Needs root, iproute2 and util-linux.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
ADDRESSES = ("10.99.0.1", "10.99.0.2")


class Host:
    """Namespaces, and a way in."""

    def __init__(self, name: str) -> None:
        script = f"hostname {name} && ip link set lo up && echo up && exec sleep infinity"
        command = ["unshare", "--net", "--uts", "sh", "-c", script]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n", "needs root, iproute2 and util-linux"
        self.pid = self._holder.pid

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` on this host."""
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", *command]

    def ip(self, *arguments: str) -> None:
        """Configure this host's network."""
        subprocess.run(self.inside("ip", *arguments), check=True)

    def start(
        self, *arguments: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a Python program here."""
        own = {"GLOO_SOCKET_IFNAME": "eth0", "TP_SOCKET_IFNAME": "eth0", **(environment or {})}
        with log.open("ab") as output:
            return subprocess.Popen(
                self.inside(sys.executable, *arguments), stdout=output, stderr=output, env=os.environ | own
            )

    def close(self) -> None:
        """Let go of the namespaces, and with them of their interfaces."""
        self._holder.kill()
        self._holder.communicate()


class TwoHosts:
    """``hosts[0]`` and ``hosts[1]`` on one switch."""

    def __init__(self) -> None:
        self._switch = Host("switch")
        self.hosts = [Host(f"host-{number}") for number in range(2)]
        self._switch.ip("link", "add", "bridge", "type", "bridge")
        self._switch.ip("link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts):
            port = f"port{number}"
            self._switch.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
            self._switch.ip("link", "set", port, "master", "bridge", "up")
            host.ip("addr", "add", f"{ADDRESSES[number]}/24", "dev", "eth0")
            host.ip("link", "set", "eth0", "up")

    def cut(self, how: str) -> None:
        """Part the hosts: the ``cable`` of the second is pulled, or the ``switch`` forgets it and its link stays up."""
        if how == "cable":
            self._switch.ip("link", "set", "port1", "down")
        else:
            self._switch.ip("link", "set", "port1", "nomaster")

    def mend(self) -> None:
        """Undo any cut."""
        self._switch.ip("link", "set", "port1", "master", "bridge", "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in (*self.hosts, self._switch):
            host.close()
