"""What a process gives up before it looks at a file that nobody vouches for.

Each thing is given up on its own; what a system does not offer stays. On Linux all of it is there but the network's
namespace, which some containers forbid: then no socket can be made nevertheless, because no descriptor can.
"""

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

NEW_USER, NEW_NET = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES = 38
NOBODY = 65534

MEMORY = 1 << 30
"""Bytes of address space besides what is used already. A description is small; bytes of tensors are not read here."""
CPU_S = 60
"""Seconds of computing."""

FORBIDDEN = (
    *("open", "os.", "socket.", "subprocess.", "shutil.", "ctypes.", "mmap.", "glob.", "pathlib.", "tempfile."),
    *("urllib.", "http.", "ftplib.", "smtplib.", "import", "exec", "compile", "marshal.", "pickle.", "code.", "pty."),
    *("signal.", "syslog.", "fcntl.", "resource.", "builtins.", "webbrowser.", "winreg.", "msvcrt."),
)
"""Beginnings of the names of what Python reports to audit hooks and this process has no business doing."""


def leave_network() -> bool:
    """Go where there is no network, if that is allowed. To be called while there is but one thread."""
    if sys.platform != "linux":
        return False
    system = ctypes.CDLL(None, use_errno=True)
    system.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return any(system.unshare(kind) == 0 for kind in (NEW_NET, NEW_NET | NEW_USER))


def confine() -> None:
    """No more descriptors, files, processes or modules; bounded memory and time. There is no way back."""
    space = _address_space()
    if os.geteuid() == 0:
        # Limits on processes do not bind root.
        with suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + CPU_S)
    if space:
        _limit(resource.RLIMIT_AS, space + MEMORY)
    # Descriptors that are open stay so; no file, socket or pipe can be added.
    _limit(resource.RLIMIT_NOFILE, 0)
    sys.addaudithook(_refuse)


def _refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if event.startswith(FORBIDDEN):
        _forbid(event)


def _forbid(event: str) -> NoReturn:
    raise PermissionError(f"{event} is forbidden here")


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()
