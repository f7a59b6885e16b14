"""Supervised runs from outside: start one, find its processes, wait for its checkpoints, end them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mypt_dist.checkpoint import Manifest, open_checkpoint
from mypt_dist.launch.exit_notes import FOLDER

PATIENCE_S = 300
"""For what takes some seconds where nobody else wants the processor: a supervisor waits, ranks start, a save ends."""


class Supervisor(subprocess.Popen[bytes]):
    """`mypt launch --supervise` of two CPU ranks. What it says goes to a file: a pipe that nobody reads fills up."""

    def __init__(self, run_file: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "mypt_dist", "launch", "cpu", str(run_file), "--supervise", *arguments]
        self._log = run_file.with_suffix(".supervisor.log")
        with self._log.open("wb") as output:
            super().__init__(command, stdout=output, stderr=subprocess.STDOUT)

    def said(self) -> str:
        """All that it and its ranks have said so far."""
        return self._log.read_text(errors="replace")


def ended(supervisor: Supervisor, within_s: float = 240) -> tuple[int, str]:
    """Its exit code and what all its processes said."""
    return supervisor.wait(within_s), supervisor.said()


def manifest(run: Path) -> Manifest:
    """Of the newest checkpoint."""
    with open_checkpoint(run) as checkpoint:
        return checkpoint.manifest


def processes(run_file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and environment of the launcher and of every rank that has begun."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (path / "cmdline").read_text(errors="replace").split("\0")
            environ = (path / "environ").read_text(errors="replace").split("\0")
            settings = dict(entry.partition("=")[::2] for entry in environ)
            if str(run_file) in command and FOLDER in settings:
                rank = settings.get("RANK")
                if rank is None or (Path(settings[FOLDER]) / f"{rank}.began").exists():
                    yield int(path.name), settings


def ranks_of(run_file: Path, **variables: str) -> list[int]:
    """Ranks that have begun, with these in their environment."""
    return [pid for pid, environ in processes(run_file) if "RANK" in environ and variables.items() <= environ.items()]


def wait_for_ranks(run_file: Path, supervisor: Supervisor, **variables: str) -> list[int]:
    """`ranks_of`, once there are some."""
    deadline = time.monotonic() + 120
    while not (found := ranks_of(run_file, **variables)):
        assert supervisor.poll() is None, supervisor.said()
        assert time.monotonic() < deadline, supervisor.said()
        time.sleep(0.02)
    return found


def launcher_of(run_file: Path) -> list[int]:
    """The process between supervisor and ranks, if it is there."""
    return [pid for pid, environ in processes(run_file) if "RANK" not in environ]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def committed(run: Path) -> set[str]:
    """Names of the checkpoints that are whole."""
    return {path.name for path in run.glob("checkpoints/step-????????")}


def wait_for_another_checkpoint(run: Path, supervisor: Supervisor) -> None:
    """Beside those that are there."""
    before, deadline = committed(run), time.monotonic() + PATIENCE_S
    while not committed(run) - before:
        assert supervisor.poll() is None, supervisor.said()
        assert time.monotonic() < deadline, supervisor.said()
        time.sleep(0.02)
