"""A signal asks for an orderly end: it is noted here, voted on in the next step, obeyed by all ranks at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Which signal has come, if any."""

    def __init__(self) -> None:
        self.signal_number = 0

    def vote(self) -> tuple[int, int]:
        """(terminate, interrupt) as this rank's contribution to the step's sum."""
        return int(self.signal_number == signal.SIGTERM), int(self.signal_number == signal.SIGINT)

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Note the first signal; the second ends the process at once. Handlers are restored afterwards."""
        previous = {number: signal.signal(number, self._note) for number in STOPPING}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A handler must not log or take locks: it may have interrupted the code that holds them.
        if self.signal_number:
            os._exit(128 + number)
        self.signal_number = number


def decided(terminate: float, interrupt: float) -> int:
    """The signal that the ranks' votes add up to, 0 for none. SIGTERM wins: it has a deadline."""
    if terminate:
        return signal.SIGTERM
    return signal.SIGINT if interrupt else 0
