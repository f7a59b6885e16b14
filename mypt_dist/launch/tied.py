"""``python -m mypt_dist.launch.tied PARENT COMMAND…`` becomes COMMAND, which ends when PARENT does."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def tied(command: Sequence[str]) -> list[str]:
    """``command`` as a child of this process that does not outlive it."""
    return [sys.executable, "-m", "mypt_dist.launch.tied", str(os.getpid()), *command]


def main(arguments: Sequence[str]) -> None:
    """SIGTERM, so that the ranks of a launcher whose supervisor was killed still save."""
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):
        # It died before the kernel knew of the tie.
        raise SystemExit(128 + signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
