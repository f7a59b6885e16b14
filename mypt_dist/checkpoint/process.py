"""Which process is this, and is another one of this machine still alive? Numbers of processes are used again."""

import os
import socket
from pathlib import Path

from mypt_dist.config import Config


class Process(Config):
    """A process, told apart from any other on any machine at any time."""

    host: str
    boot_id: str
    """Changes when the machine starts. Empty where the system does not tell."""
    pid_namespace: str
    """Containers on one machine share its boot_id but count their processes apart."""
    pid: int
    started: str
    """Clock ticks from the start of the machine. Empty where the system does not tell."""

    @classmethod
    def this(cls) -> "Process":
        """The running one."""
        return cls(
            host=socket.gethostname(),
            boot_id=_text(Path("/proc/sys/kernel/random/boot_id")).strip(),
            pid_namespace=_link(Path("/proc/self/ns/pid")),
            pid=os.getpid(),
            started=start_of(os.getpid()) or "",
        )

    def sees(self, other: "Process") -> bool:
        """Whether this one could tell if ``other`` ended."""
        mine = (self.host, self.boot_id, self.pid_namespace)
        return all(mine) and mine == (other.host, other.boot_id, other.pid_namespace)


def is_alive(process: Process) -> bool:
    """Whether a process of this machine still runs; False too when its number now belongs to another."""
    started = start_of(process.pid)
    return started is not None and started in ("", process.started)


def start_of(pid: int) -> str | None:
    """When a process began, in clock ticks from the start of the machine; "" if hidden, None if there is none."""
    stat = _text(Path(f"/proc/{pid}/stat"))
    if stat:
        # The name of the program may hold spaces and brackets: fields are counted from the last bracket.
        state, *rest = stat.rpartition(")")[2].split()
        return None if state in ("Z", "X") else rest[18]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
