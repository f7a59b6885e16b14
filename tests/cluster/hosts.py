"""Two hosts with their own names, addresses and network stacks on one machine, and the switch between them.

A host is a process that keeps network and host-name namespaces alive. Needs root, iproute2 and util-linux.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from engines import FSDP2

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
ADDRESSES = ("10.99.0.1", "10.99.0.2")
SWITCH_ADDRESS = "10.99.0.254"

LAUNCH_FILES = Path(__file__).parents[2] / "launch/accelerate"

ON_ONE_HOST: Mapping[str, Mapping[str, str]] = {
    "ddp": {},
    "fsdp2": FSDP2,
}
"""The variables by which the same engine is chosen without a launch file."""


def logs(run_file: Path) -> str:
    """What the launchers of a run said on both hosts."""
    return "".join(run_file.with_suffix(f".{number}.log").read_text() for number in range(2))


class Host:
    """Namespaces, and a way in. ``names``: its /etc/hosts, if not this machine's own."""

    def __init__(self, name: str, names: Path = Path("/etc/hosts")) -> None:
        self.name = name
        script = f"hostname {name} && mount --bind {names} /etc/hosts && ip link set lo up && echo up && exec sleep inf"
        command = ["unshare", "--net", "--uts", "--mount", "sh", "-c", script]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n", "needs root, iproute2 and util-linux"
        self.pid = self._holder.pid

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` on this host."""
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", f"--wd={Path.cwd()}", *command]

    def ip(self, *arguments: str) -> None:
        """Configure this host's network."""
        subprocess.run(self.inside("ip", *arguments), check=True)

    def start(
        self, *arguments: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a Python program here."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.inside(sys.executable, *arguments),
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )

    def processes(self) -> Iterator[int]:
        """Whoever runs here."""
        ours = Path(f"/proc/{self.pid}/ns/net").readlink()
        for entry in Path("/proc").glob("[0-9]*/ns/net"):
            with suppress(OSError):
                if entry.readlink() == ours:
                    yield int(entry.parts[2])

    def trains(self) -> bool:
        """Whether a rank runs here: not its launcher, whose command line holds that of the rank."""
        for process in self.processes():
            with suppress(OSError):
                command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                if b"-m" in command and command[command.index(b"-m") + 1 :][:2] == [b"mypt_dist", b"train"]:
                    return True
        return False

    def close(self) -> None:
        """Kill whoever is left here, and let go of the namespaces, and with them of their interfaces."""
        for process in self.processes():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        self._holder.communicate()


class TwoHosts:
    """``hosts[0]`` and ``hosts[1]`` on one switch. All know each other by name."""

    def __init__(self) -> None:
        names = ["host-0", "host-1"]
        with tempfile.NamedTemporaryFile("w", suffix=".hosts") as file:
            known = zip([*ADDRESSES, SWITCH_ADDRESS], [*names, "switch"], strict=True)
            file.write("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for address, name in known))
            file.flush()
            self.switch = Host("switch", Path(file.name))
            self.hosts = [Host(name, Path(file.name)) for name in names]
        self.switch.ip("link", "add", "bridge", "type", "bridge")
        self.switch.ip("addr", "add", f"{SWITCH_ADDRESS}/24", "dev", "bridge")
        self.switch.ip("link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts):
            port = f"port{number}"
            self.switch.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
            self.switch.ip("link", "set", port, "master", "bridge", "up")
            host.ip("addr", "add", f"{ADDRESSES[number]}/24", "dev", "eth0")
            host.ip("link", "set", "eth0", "up")

    def accelerate(
        self, run_file: Path, engine: str, rendezvous: str, *overrides: str
    ) -> list["subprocess.Popen[bytes]"]:
        """`accelerate launch`, given by hand on each host: one rank there. Logs lie beside the run file."""
        launchers = []
        for number, host in enumerate(self.hosts):
            options = {
                "config_file": LAUNCH_FILES / f"{engine}.yaml",
                "num_processes": 2,
                "num_machines": 2,
                "machine_rank": number,
                "main_process_ip": ADDRESSES[0],
                "main_process_port": 29500,
                "rdzv_backend": rendezvous,
            }
            command = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            program = ["-m", "mypt_dist", "train", str(run_file), *overrides]
            log = run_file.with_suffix(f".{number}.log")
            environment = {"ACCELERATE_USE_CPU": "true"}
            launchers.append(
                host.start("-m", "accelerate.commands.launch", *command, *program, log=log, environment=environment)
            )
        return launchers

    def supervised(self, run_file: Path, launch_file: Path, *overrides: str) -> list["subprocess.Popen[bytes]"]:
        """`mypt launch --supervise`, once, on each host: one rank there. Logs as of `accelerate`."""
        launchers = []
        for number, host in enumerate(self.hosts):
            program = ["-m", "mypt_dist", "launch", str(launch_file), str(run_file), *overrides]
            place = ["--cpu", "--ranks=2", "--nodes=2", f"--node-rank={number}", f"--address={ADDRESSES[0]}"]
            log = run_file.with_suffix(f".{number}.log")
            launchers.append(host.start(*program, *place, "--supervise", "--max-restarts=0", log=log))
        return launchers

    def cut(self, how: str) -> None:
        """Part the hosts: the ``cable`` of the second is pulled, or the ``switch`` forgets it and its link stays up."""
        if how == "cable":
            self.switch.ip("link", "set", "port1", "down")
        else:
            self.switch.ip("link", "set", "port1", "nomaster")

    def mend(self) -> None:
        """Undo any cut."""
        self.switch.ip("link", "set", "port1", "master", "bridge", "up")

    def close(self) -> None:
        """Nothing is left of them."""
        for host in (*self.hosts, self.switch):
            host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
