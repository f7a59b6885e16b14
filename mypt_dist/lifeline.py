"""Processes beside a rank: they end with the one that started them, and not before it."""

import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1

FOR_THE_RANK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""By which a terminal or a scheduler tells every process of a job at once what only the ranks can obey."""


def leave_stopping_to_the_rank() -> None:
    """For a process beside a rank: it learns from the rank's end when its own time has come."""
    for number in FOR_THE_RANK:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent(signal_number: int = signal.SIGKILL, parent: int | None = None) -> bool:
    """Have this process be sent ``signal_number`` when its parent ends. False if the parent was gone already.

    ``parent``: its process id, where this process was told; null: whoever is it now. The kernel means the parent's
    *thread* that started this process.
    """
    expected = os.getppid() if parent is None else parent
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    # Had it ended before the kernel was asked, no signal would come.
    return os.getppid() == expected


def is_readable(descriptor: int, seconds: float) -> bool:
    """Whether something can be read, or the other end is closed, within so many seconds.

    Of any descriptor: `select.select` cannot watch those beyond the 1,024th.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))
