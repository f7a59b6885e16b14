"""A process that must not outlive the one that started it asks the kernel to end them together."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


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
