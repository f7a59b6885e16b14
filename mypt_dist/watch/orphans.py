"""Nobody trains on whose launcher is gone: the kernel is asked to end a process together with its parent."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

PR_SET_PDEATHSIG = 1

LAUNCHED = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID")
"""Variables that a launcher sets for each rank."""


def die_with_parent(signal_number: int = signal.SIGKILL) -> bool:
    """Have this process be sent ``signal_number`` when its parent ends. False if the parent was gone already.

    The kernel means the parent's *thread* that started this process: launchers start ranks from their main thread.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    # Had it ended before the kernel was asked, no signal would come.
    return os.getppid() == parent


def die_with_launcher(environ: Mapping[str, str]) -> None:
    """End this rank when its launcher is killed: its run's folder is free at once, and no device is held.

    SIGKILL, because the launcher has taken the ranks' rendezvous along: an orderly end might wait for it for ever.
    """
    if any(name in environ for name in LAUNCHED) and not die_with_parent():
        os.kill(os.getpid(), signal.SIGKILL)
