"""``python -m mypt_dist.launch.tied PARENT COMMAND…`` becomes COMMAND, which ends when PARENT does."""

import os
import signal
import sys
from collections.abc import Sequence

from mypt_dist.lifeline import die_with_parent


def tied(command: Sequence[str]) -> list[str]:
    """``command`` as a child of this process that does not outlive it."""
    return [sys.executable, "-m", "mypt_dist.launch.tied", str(os.getpid()), *command]


def main(arguments: Sequence[str]) -> None:
    """SIGTERM, so that the ranks of a launcher whose supervisor was killed still save."""
    parent, *command = arguments
    if not die_with_parent(signal.SIGTERM, int(parent)):
        # It died before the kernel knew of the tie.
        raise SystemExit(128 + signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
