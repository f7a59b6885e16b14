"""One attempt: a launcher, its ranks, the signals that are passed on to them, and nobody left behind."""

import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from mypt_dist.errors import ConfigError
from mypt_dist.launch.command import Command
from mypt_dist.launch.exit_notes import FOLDER, read_notes
from mypt_dist.launch.stop_requests import ANNOUNCING, is_echo
from mypt_dist.launch.supervision.verdict import Ending
from mypt_dist.launch.tied import tied

log = logging.getLogger(__name__)

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

GONE_WITHIN_S = 30.0
"""A killed process that is still there then is stuck in a driver: waiting longer would not help."""

LOOK_EVERY_S = 10.0
"""Between looks for a launcher that is left alone: each is a walk over all processes of the machine."""

LINGERS_S = 30.0
"""A launcher ends within seconds of its ranks, unless it waits for a machine that is cut off: torchrun's c10d
rendezvous does so until the kernel gives the connection up, after many minutes."""


class Stop:
    """The signals that this process was sent. A request to stop is passed on, the next one ends everything at once."""

    def __init__(self) -> None:
        self.first = 0
        """The last one that was passed on, 0 for none."""
        self.second = 0
        """The one that ended everything, 0 for none."""
        self._since = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Handlers are restored afterwards. What was ignored before, as under nohup, still is."""
        heard = [number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self._receive) for number in heard}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def wait(self, seconds: float) -> None:
        """Sleep, unless a signal has come or comes."""
        end = time.monotonic() + seconds
        while not self.first and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def follow(self, child: "subprocess.Popen[bytes]", folder: Path) -> None:
        """``child`` is whom signals are for."""
        self._child, self._folder = child, folder
        if self.first:
            child.send_signal(self.first)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.first and is_echo(self.first, number, now - self._since):
            return
        if self.first and self.first not in ANNOUNCING:
            if self._child is not None and self._folder is not None:
                self.second = number
                self._child.kill()
                kill_marked(self._folder)
            return
        self.first, self._since = number, now
        if self._child is not None:
            self._child.send_signal(number)


def attempt(command: Command, stop: Stop) -> Ending:
    """Execute ``command`` until it and every process of it have ended.

    Raises `ConfigError` if there is no folder for temporary files.
    """
    try:
        notes = tempfile.TemporaryDirectory(prefix="mypt-exit-notes-")
    except OSError as error:
        raise ConfigError(f"no folder for temporary files: {error}; set TMPDIR to one") from error
    with notes as name:
        folder = Path(name)
        environment = {**os.environ, **command.environment, FOLDER: name}
        # In a session of its own: Ctrl-C in a terminal is for us alone, and we pass it on.
        child = subprocess.Popen(tied(command.arguments), env=environment, start_new_session=True)
        stop.follow(child, folder)
        code = child.wait() if command.is_rank else _wait_for_launcher(child, folder)
        end_marked(folder)
        return Ending(code, {0: code} if command.is_rank else read_notes(folder))


def _wait_for_launcher(child: "subprocess.Popen[bytes]", folder: Path) -> int:
    """Its exit code. One that lingers after its ranks have failed is killed."""
    alone_since: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(LOOK_EVERY_S)
        if not _left_alone(child.pid, folder):
            alone_since = None
            continue
        alone_since = alone_since or time.monotonic()
        if time.monotonic() - alone_since >= LINGERS_S:
            log.warning("supervisor: the ranks have ended, but their launcher has not: killed")
            child.kill()


def _left_alone(launcher: int, folder: Path) -> bool:
    """Whether ranks began, not all ended well, and none is left. After a good end launchers wait for one another."""
    codes = read_notes(folder).values()
    return any(code != 0 for code in codes) and marked(folder) == [launcher]


def marked(folder: Path) -> list[int]:
    """Processes that were started with ``folder`` for their notes. None where the system does not tell."""
    mark = f"{FOLDER}={folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def kill_marked(folder: Path) -> list[int]:
    """Kill them, and tell whom."""
    found = marked(folder)
    for pid in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return found


def end_marked(folder: Path) -> None:
    """Kill until none is left: a rank that outlived its launcher would hold the lock of the next one."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while kill_marked(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
