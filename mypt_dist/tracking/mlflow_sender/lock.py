"""Who may ship this run's journal? One process at a time."""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mypt_dist.tracking.mlflow_sender.state import FOLDER, LOCK

log = logging.getLogger(__name__)


@contextmanager
def sole_sender(run_dir: Path, wait: Callable[[], bool]) -> Iterator[bool]:
    """Hold the run's sender lock; yields whether it is held. The kernel lets go of it when the process dies.

    While another process has it, ``wait`` is called again and again and says whether to go on waiting.
    """
    path = run_dir / FOLDER / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield _acquire(fd, wait)
    finally:
        os.close(fd)


def _acquire(fd: int, wait: Callable[[], bool]) -> bool:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait():
                return False
        except OSError as error:
            log.warning("this file system has no locks (%s): is a second sender at work?", error.strerror)
            return True
        else:
            return True
