"""Leaves nothing behind: a process that waits until the rehearsal is over, however that ends, and clears up.

``python -m mypt_dist.run.rehearse.guardian TOKEN [FOLDER]``. Its standard input is a pipe that the rehearsal holds: the
system closes it, whether the rehearsal returns, is interrupted or is killed.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mypt_dist.lifeline import leave_stopping_to_the_rank
from mypt_dist.run.rehearse.household import kill, members


@contextmanager
def guarded(token: str, folder: Path | None) -> Iterator[None]:
    """Within it, processes marked with ``token`` live; afterwards they do not, and ``folder`` is gone."""
    command = [sys.executable, "-m", "mypt_dist.run.rehearse.guardian", token, *([str(folder)] if folder else [])]
    # A session of its own: a Ctrl-C is for the rehearsal.
    guardian = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert guardian.stdin is not None, "it is a pipe"
    try:
        yield
    finally:
        guardian.stdin.close()
        guardian.wait()


def main(arguments: list[str]) -> int:
    """Wait for the end of stdin, then clear up."""
    leave_stopping_to_the_rank()
    token, *folders = arguments
    sys.stdin.buffer.read()
    kill(lambda: members(token))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
