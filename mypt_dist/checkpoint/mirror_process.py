"""How a run starts and ends the process that keeps its mirror."""

import contextlib
import logging
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from mypt_dist.checkpoint.policy import CheckpointPolicy
from mypt_dist.checkpoint.retention import Retention
from mypt_dist.config import Config
from mypt_dist.world import World

log = logging.getLogger(__name__)

END_S = 10.0
"""Seconds that the end of a run waits for the last copy: less than any grace period before a kill. What is not copied
then is by the next start."""


class Order(Config):
    """What the process must know; one line on its standard input."""

    parent: int
    root: Path
    """Folder of the run's checkpoints."""
    mirror: str
    retention: Retention


class MirrorProcess:
    """Starts the process and ends it. Neither raises anything that is the mirror's fault."""

    def __init__(self, root: Path, mirror: str, retention: Retention) -> None:
        self._order = Order(parent=os.getpid(), root=root, mirror=mirror, retention=retention)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "MirrorProcess":
        command = [sys.executable, "-m", "mypt_dist.checkpoint.mirror_keeper"]
        try:
            # A session of its own: Ctrl-C in a terminal is for the run, which then ends this.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
            assert self._process.stdin is not None
            self._process.stdin.write(self._order.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            log.warning("there will be no copies in %s: %s", self._order.mirror, error)
        return self

    @property
    def pid(self) -> int | None:
        """Of the process, once there is one."""
        return self._process.pid if self._process else None

    def __exit__(self, *exc: object) -> None:
        """Let it copy what is left, for a while."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            log.warning("%s is behind; the next start of this run goes on copying", self._order.mirror)
            self._process.kill()
            self._process.wait()


def mirrored(root: Path, policy: CheckpointPolicy, world: World) -> AbstractContextManager[object]:
    """While rank 0 has entered it, the checkpoints in ``root`` are copied if the ``policy`` says so."""
    if policy.mirror is None or world.rank:
        return contextlib.nullcontext()
    return MirrorProcess(root, policy.mirror, policy.retention)
