"""The Python stacks of a rank, written by the interpreter's C code: nobody needs to hold its lock for that."""

import faulthandler
import os
import re
import signal
import time
from typing import Final, NamedTuple

SIGNAL: Final = int(signal.SIGRTMIN) + 7
"""Has the rank write down its stacks. A real-time signal, because launchers and batch systems use all others."""

WAIT_S: Final = 3.0
"""How long the interpreter may take."""
QUIET_S: Final = 0.15
"""After which nothing more is expected to be written."""


class Innermost(NamedTuple):
    """Where the main thread is."""

    at: str
    collective: bool


def write_when_signalled(descriptor: int) -> None:
    """In the rank: `SIGNAL` writes the stacks of all threads to ``descriptor``."""
    faulthandler.register(SIGNAL, file=descriptor, all_threads=True, chain=False)


def no_longer() -> None:
    """Let `SIGNAL` go. The guard must have ended: one that comes later would end the process."""
    faulthandler.unregister(SIGNAL)


def ask(pid: int, descriptor: int) -> str:
    """In the guard: the stacks of all threads of the rank; empty if it writes none."""
    os.ftruncate(descriptor, 0)
    os.kill(pid, SIGNAL)
    deadline, size, since = time.monotonic() + WAIT_S, 0, time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.02)
        now = os.fstat(descriptor).st_size
        if now != size:
            size, since = now, time.monotonic()
        elif size and time.monotonic() - since > QUIET_S:
            break
    return os.pread(descriptor, size, 0).lstrip(b"\0").decode(errors="replace")


def innermost(stacks: str) -> Innermost:
    """The main thread's innermost frame: it is the thread that began first, so the one written last."""
    threads = re.split(r"^.*\(most recent call first\):$", stacks, flags=re.MULTILINE)
    frames = re.findall(r'^ *File "([^"\n]*)", line (\d+) in (\S+)', threads[-1], flags=re.MULTILINE)
    if not frames:
        return Innermost("", collective=False)
    file, line, function = frames[0]
    short = "/".join(file.split("/")[-2:])
    near = " ".join(path for path, _, _ in frames[:4])
    return Innermost(f"{short}:{line} {function}", "torch/distributed/" in near or "engine/host.py" in near)
