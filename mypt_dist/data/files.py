"""Reading from disks that fail now and then: bounded patience, whole reads, and never a signal.

A mapped page behind the end of a file that was cut short kills the process with SIGBUS; so does one that the disk
cannot read. `os.pread` answers both with an ordinary error.
"""

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.errors import DataError

TRANSIENT = {errno.EIO, errno.ESTALE, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOTCONN, errno.EREMOTEIO}
"""What a network disk says when it may well answer the next time."""
KEPT_OPEN = 64
"""Files open at once. A process may have as few as 1024."""


class Calls:
    """The operating system's calls, one method each, so that a test can make any of them fail."""

    def open(self, path: Path) -> int:
        """A descriptor to read a file."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def size(self, descriptor: int) -> int:
        """Bytes of an open file."""
        return os.fstat(descriptor).st_size

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """At most ``length`` bytes from ``offset``; none at the end."""
        return os.pread(descriptor, length, offset)

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a read is tried again: at most ``len(waits)`` times."""

    waits: tuple[float, ...] = (0.1, 0.5, 2.0, 5.0)
    """Seconds before each further attempt."""
    sleep: Callable[[float], None] = time.sleep


class PatientFiles:
    """Reads from files that stay open. For one thread at a time."""

    def __init__(self, patience: Patience | None = None, calls: Calls | None = None) -> None:
        self._patience, self._calls = patience or Patience(), calls or Calls()
        self._open: OrderedDict[Path, int] = OrderedDict()

    def read(self, path: Path, size: int, begin: int, length: int) -> bytes:
        """``length`` bytes from ``begin`` of a file that must have ``size``.

        Raises `DataError` where the file is shorter or longer, and where it cannot be read in spite of patience.
        """
        for wait in (*self._patience.waits, None):
            try:
                return self._read_all(path, size, begin, length)
            except OSError as error:
                # A stale handle stays stale: the next attempt opens the file anew.
                self._forget(path)
                if wait is None or error.errno not in TRANSIENT:
                    tries = len(self._patience.waits) + 1 if wait is None else 1
                    raise DataError(
                        f"{path} cannot be read at byte {begin:,}: {error.strerror} ({tries} attempts); "
                        "the same command resumes when the disk is well"
                    ) from None
                self._patience.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Give all descriptors back."""
        for path in list(self._open):
            self._forget(path)

    def _read_all(self, path: Path, size: int, begin: int, length: int) -> bytes:
        descriptor = self._descriptor(path)
        data = self._calls.pread(descriptor, length, begin)
        while len(data) < length:
            # Fewer than asked for is no error: a signal or the server may cut a read short.
            more = self._calls.pread(descriptor, length - len(data), begin + len(data))
            if not more:
                found = self._calls.size(descriptor)
                raise DataError(f"{path} was cut short while in use: it has {found:,} bytes, it had {size:,}")
            data += more
        return data

    def _descriptor(self, path: Path) -> int:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            while len(self._open) >= KEPT_OPEN:
                self._calls.close(self._open.popitem(last=False)[1])
            self._open[path] = self._calls.open(path)
        return self._open[path]

    def _forget(self, path: Path) -> None:
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            self._calls.close(descriptor)
