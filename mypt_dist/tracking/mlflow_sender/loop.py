"""When does the sender send, wait, try again and end?"""

import logging
from collections.abc import Callable
from typing import Protocol

from mypt_dist.tracking.mlflow_sender.remote import Unreachable
from mypt_dist.tracking.mlflow_sender.ship import Shipper
from mypt_dist.tracking.redact import scrub

log = logging.getLogger(__name__)

POLL_S = 1.0
"""Between two looks at the journal."""
MAX_BACKOFF_S = 30.0
HURRY_S = 2.0
"""Longest back-off when the trainer is gone and the time is limited."""
_MESSAGE = 300


class Trainer(Protocol):
    """The process whose journal is shipped."""

    def is_done(self) -> bool:
        """Whether it is gone, or said that it has nothing more to log."""
        ...

    def has_successor(self) -> bool:
        """Whether it is gone and another process has the journal open."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep, at most so long, and not through its end."""
        ...


class Loop:
    """Ships until the run has ended and everything is there, or its trainer is done and the time is up."""

    def __init__(self, shipper: Shipper, trainer: Trainer, drain_s: float, clock: Callable[[], float]) -> None:
        """``drain_s`` limits the time after the trainer is done; ``clock`` is monotonic, in seconds."""
        self._shipper = shipper
        self._trainer = trainer
        self._drain_s = drain_s
        self._clock = clock
        self._deadline: float | None = None
        self._failures = 0

    def run(self) -> bool:
        """Whether everything was sent."""
        while True:
            done = self._trainer.is_done()  # before the last look at the journal, so that nothing goes unseen
            if self._drain() and (self._shipper.has_ended() or (done and self._close())):
                return True
            # The next trainer's sender waits until this one ends.
            if self._is_overdue() or self._trainer.has_successor():
                return False
            self._pause()

    def _drain(self) -> bool:
        """Send all there is; whether that went well and is done."""
        try:
            while self._shipper.step():
                self._succeeded()
                if self._is_overdue():
                    return False
        except Unreachable as error:
            self._failed(error)
            return False
        self._succeeded()
        return True

    def _close(self) -> bool:
        """Everything is sent and nothing will follow. Unless another trainer goes on, the run ends here."""
        try:
            if not self._trainer.has_successor():
                self._shipper.close_as_killed()
        except Unreachable as error:
            self._failed(error)
            return False
        return True

    def _is_overdue(self) -> bool:
        if self._deadline is None and self._trainer.is_done():
            self._deadline = self._clock() + self._drain_s
        return self._deadline is not None and self._clock() >= self._deadline

    def _pause(self) -> None:
        """Poll while all goes well, back off while it does not, and hurry when the trainer is done."""
        seconds = min(MAX_BACKOFF_S, 2.0 ** (self._failures - 1)) if self._failures else POLL_S
        since = self._clock()
        while (waited := self._clock() - since) < (min(seconds, HURRY_S) if self._trainer.is_done() else seconds):
            self._trainer.wait(min(POLL_S, seconds - waited))

    def _succeeded(self) -> None:
        if self._failures:
            log.info("the store answers again after %d failures", self._failures)
        self._failures = 0
        self._shipper.remember(None)

    def _failed(self, error: Unreachable) -> None:
        self._failures += 1
        message = scrub(str(error))[:_MESSAGE]
        if self._failures.bit_count() == 1:  # 1, 2, 4, 8, …: a long outage must not fill the disk
            log.warning("the store cannot be reached (failure %d): %s", self._failures, message)
        self._shipper.remember(message)
