"""Ends a transfer that takes too long: one that stands still, one that trickles, one that never ends."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient a download is. Seconds and bytes."""

    connect_s: float = 20.0
    idle_s: float = 60.0
    """Without a single byte."""
    slow_bytes: int = 1 << 18
    """What must arrive in each ``slow_s``: fewer would take months."""
    slow_s: float = 120.0
    whole_s: float = 24 * 3600.0
    """For one file, all attempts together."""
    attempts: int = 6
    """In a row without progress."""
    progress_bytes: int = 1 << 20
    """What an attempt must bring not to count."""
    wait_s: float = 1.0
    """Before the second attempt; doubled before each further one."""
    max_wait_s: float = 300.0
    """Before any attempt, also where the server asks for more."""


class Transfer:
    """One request and its answer, watched by a thread. Breaking it makes the reader see the end of the connection."""

    def __init__(self, pace: Pace, deadline: float, stop: threading.Event) -> None:
        """``deadline``: by `time.monotonic`. ``stop``: set when the whole program gives up."""
        self.pace, self._deadline, self._stop = pace, deadline, stop
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._arrived = 0
        self.broken: str | None = None
        """Why it was ended."""

    def use(self, connection: socket.socket) -> None:
        """The socket that is read from now on."""
        with self._lock:
            self._socket = connection
            if self.broken:
                _shut(connection)

    def arrived(self, count: int) -> None:
        """``count`` more bytes."""
        self._arrived += count

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A thread looks after it meanwhile."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="transfer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._socket = None

    def _watch(self, over: threading.Event) -> None:
        begin, before = time.monotonic(), 0
        while not over.wait(min(0.2, self.pace.slow_s / 4)):
            now = time.monotonic()
            if self._stop.is_set():
                return self._break("it was stopped")
            if now > self._deadline:
                return self._break(f"it took longer than {self.pace.whole_s:g} s")
            if now - begin > self.pace.slow_s:
                if self._arrived - before < self.pace.slow_bytes:
                    return self._break(
                        f"{self._arrived - before:,} bytes in {self.pace.slow_s:g} s are too slow, "
                        f"{self.pace.slow_bytes:,} are the least"
                    )
                begin, before = now, self._arrived
        return None

    def _break(self, why: str) -> None:
        with self._lock:
            self.broken = why
            if self._socket is not None:
                _shut(self._socket)


def _shut(connection: socket.socket) -> None:
    # Of the class itself: that of TLS sockets would have its reader take encrypted bytes for plain ones.
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
