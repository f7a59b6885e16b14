"""Who wants the run to stop or to save: signals and files, noted here, voted on in every step, obeyed by all ranks."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mypt_dist.launch.stop_requests import ANNOUNCING, is_echo

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
"""By priority. SIGTERM has a deadline; Slurm announces one with SIGUSR1; SIGHUP is a terminal that was closed."""

SAVE_NOW, STOP = "SAVE_NOW", "STOP"
"""Files that somebody puts into a run's folder, by hand or from a job that may not send signals to the ranks."""

LOOK_EVERY_S = 1.0
"""Between looks for these files: a network disk need not answer at every step."""


class ControlFiles:
    """What files in a run's folder ask for. Only the main rank looks."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._looked: float | None = None
        self._found = (False, False)

    def look(self) -> tuple[bool, bool]:
        """(save now, stop). A file that cannot be seen is not there: looking never hurts a run."""
        now = self._clock()
        if self._looked is None or now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._found = (self._is_there(SAVE_NOW), self._is_there(STOP))
        return self._found

    def obeyed(self, name: str) -> None:
        """Take a file away, so that it is obeyed once."""
        self._looked, self._found = None, (False, False)
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError:
            return

    def _is_there(self, name: str) -> bool:
        try:
            return (self._folder / name).exists()
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Wish:
    """What all ranks have agreed to do: they see the same sums of votes."""

    signal_number: int = 0
    """The signal that ends the run, or 0."""
    stop: bool = False
    save: bool = False
    """Save, and go on."""

    @classmethod
    def of(cls, sums: Sequence[float]) -> "Wish":
        """From the sums of all ranks' `StopRequest.vote`."""
        *signals, save, stop = sums
        number = next((int(number) for number, votes in zip(STOPPING, signals, strict=True) if votes), 0)
        return cls(number, bool(number) or stop > 0, save > 0)


VOTES = len(STOPPING) + 2


class StopRequest:
    """Which signal has come, if any, and what the control files say."""

    def __init__(self, files: ControlFiles | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.signal_number = 0
        self.files = files
        self._clock, self._since = clock, 0.0

    def vote(self) -> list[int]:
        """This rank's part of the step's sum: a place for each signal, then save now, then stop."""
        save, stop = self.files.look() if self.files else (False, False)
        return [*(int(self.signal_number == number) for number in STOPPING), int(save), int(stop)]

    def stopping(self) -> bool:
        """Whether this rank wants to stop: asked where a long piece of work could be cut short."""
        return self.signal_number != 0 or bool(self.files and self.files.look()[1])

    def obeyed(self, name: str) -> None:
        """A control file was obeyed."""
        if self.files:
            self.files.obeyed(name)

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Note the first signal; the next request ends the process at once. Handlers are restored afterwards.

        What is ignored stays ignored: somebody who starts a run with nohup wants it to outlive the terminal.
        """
        heard = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A handler must not log or take locks: it may have interrupted the code that holds them.
        now = self._clock()
        if self.signal_number:
            if is_echo(self.signal_number, number, now - self._since):
                return
            if self.signal_number not in ANNOUNCING:
                os._exit(128 + number)
        self.signal_number, self._since = number, now
