"""All processes of a rehearsal, wherever they have gone: a variable in their environment tells whose they are.

Launchers put their ranks into sessions of their own, and a tracker its sender, so process groups do not hold them.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil

MARK = "MYPT_REHEARSAL"


def mark(token: str, node: int) -> str:
    """The value of `MARK` on a node of the rehearsal ``token``."""
    return f"{token}:{node}"


def members(token: str, node: int | None = None) -> list[psutil.Process]:
    """Living processes of a rehearsal, or of one of its nodes."""
    return [process for process, environ in _living() if _belongs(environ.get(MARK, ""), token, node)]


def trainers(token: str, node: int | None = None) -> dict[int, psutil.Process]:
    """Training processes by the rank that their launcher gave them."""
    found: dict[int, psutil.Process] = {}
    for process, environ in _living():
        if _belongs(environ.get(MARK, ""), token, node) and "RANK" in environ and _trains(process):
            found[int(environ["RANK"])] = process
    return found


def kill(select: Callable[[], list[psutil.Process]]) -> int:
    """Kill whatever ``select`` finds until it finds nothing; how many that were. New ones may be born meanwhile."""
    killed: set[int] = set()
    while found := select():
        for process in found:
            killed.add(process.pid)
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)
    return len(killed)


def _living() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process, process.environ()
        except (psutil.Error, OSError):
            # Gone meanwhile, or another user's.
            continue


def _belongs(value: str, token: str, node: int | None) -> bool:
    return value.partition(":")[0] == token if node is None else value == mark(token, node)


def _trains(process: psutil.Process) -> bool:
    """Not one of a rank's own children, which inherit its environment."""
    try:
        return {"mypt_dist", "train"} <= set(process.cmdline())
    except psutil.Error:
        return False
