"""The side of the rank: it starts its guard, tells what it is at, and ends itself when the guard says so."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Final

from mypt_dist.errors import HUNG
from mypt_dist.watch import stacks
from mypt_dist.watch.board import SIZE, Board, shared_memory
from mypt_dist.watch.guard import Settings
from mypt_dist.watch.statuses import forget, watch_folder

log = logging.getLogger(__name__)

RESTART_S: Final = 10.0
"""A guard that was killed is started again at most so often."""
FAREWELL_S: Final = 1.0
"""How long a run that ends waits for its guard's last word."""


class Watch:
    """One rank under the eyes of its guard. Between `start` and `stop`; no method waits for anything but `stop`."""

    def __init__(self, run_dir: Path, rank: int, size: int, *, grace_s: float, heartbeat_s: float) -> None:
        self._run_dir, self._rank, self._size = run_dir, rank, size
        self._grace_s, self._heartbeat_s = grace_s, heartbeat_s
        self._board_file = shared_memory("mypt-watch", SIZE)
        self._stacks_file = shared_memory("mypt-stacks")
        self._board = Board(self._board_file)
        self._public = False
        self._guard: subprocess.Popen[bytes] | None = None
        self._end = -1
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the guard, and the thread that obeys it."""
        stacks.write_when_signalled(self._stacks_file)
        if not self._spawn():
            return
        threading.Thread(target=self._obey, name="watch", daemon=True).start()

    def enter(self, phase: str, step: int, limit_s: float) -> None:
        """This rank is at ``phase`` of ``step`` from now on, and not for longer than ``limit_s``."""
        self._board.mark(phase, step, limit_s, public=self._public)

    def publish(self) -> None:
        """From the next phase on the run's folder may be written to: it is locked for this run."""
        self._public = True

    def forget_others(self) -> None:
        """What ranks of an earlier start left would be mistaken for ours. Before any rank may `publish`."""
        try:
            forget(watch_folder(self._run_dir))
        except OSError as error:
            log.warning("old files of ranks cannot be removed from %s: %s", watch_folder(self._run_dir), error)

    def stop(self) -> None:
        """Nobody watches any more. Safe to call again."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._guard is not None:
            _hang_up(self._guard)
            try:
                self._guard.wait(FAREWELL_S)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
        stacks.no_longer()
        os.close(self._board_file)
        os.close(self._stacks_file)

    def _obey(self) -> None:
        """Wait for the guard's byte. Its end without one means that it was killed."""
        while True:
            told = os.read(self._end, 1)
            if told:
                os._exit(HUNG)
            os.close(self._end)
            if self._stopping.wait(RESTART_S):
                return
            log.warning("the watchdog of rank %d was killed and is started again", self._rank)
            if not self._spawn():
                return

    def _spawn(self) -> bool:
        if self._guard is not None:
            _hang_up(self._guard)
            self._guard.wait()
        self._end, told_by_guard = os.pipe()
        settings = Settings(
            pid=os.getpid(),
            rank=self._rank,
            size=self._size,
            host=socket.gethostname(),
            board=self._board_file,
            stacks=self._stacks_file,
            end=told_by_guard,
            run_dir=str(self._run_dir),
            watch_dir=str(watch_folder(self._run_dir)),
            grace_s=self._grace_s,
            heartbeat_s=self._heartbeat_s,
        )
        # Without site packages: it needs none, and should be there in milliseconds.
        command = [sys.executable, "-S", "-m", "mypt_dist.watch.guard", json.dumps(asdict(settings))]
        try:
            self._guard = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(self._board_file, self._stacks_file, told_by_guard),
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                # A signal for the trainer's process group is not for its guard.
                start_new_session=True,
            )
        except OSError as error:
            log.warning("rank %d runs without a watchdog, which cannot be started: %s", self._rank, error)
            os.close(self._end)
            return False
        finally:
            os.close(told_by_guard)
        return True


def _hang_up(process: "subprocess.Popen[bytes]") -> None:
    """The end of its input tells the guard that nobody is left to be watched."""
    if process.stdin is not None:
        process.stdin.close()
