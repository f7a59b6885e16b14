"""How are lines appended and read so that a torn one is never taken for a whole one?"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

Write: TypeAlias = Callable[[int, memoryview], int]
"""`os.write`, or what stands in for it in a test: may write less than it was given, may raise OSError."""

_BLOCK = 1 << 16


class LineWriter:
    """Appends whole lines to one file. What a crash or a full disk left of a line is cut off again."""

    def __init__(self, path: Path, write: Write = os.write) -> None:
        """Raises OSError where the file cannot be opened for appending."""
        self._write = write
        self._torn = False
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.end = end_of_last_line(self.fd)
        """Bytes up to and including the last whole line."""
        if os.fstat(self.fd).st_size > self.end:
            os.ftruncate(self.fd, self.end)

    def append(self, line: bytes) -> None:
        """Append ``line``, which ends in a newline. Raises OSError, and then the file holds no part of it for long."""
        if self._torn:
            os.ftruncate(self.fd, self.end)
        self._torn = True
        rest = memoryview(line)
        while rest:
            rest = rest[self._write(self.fd, rest) :]
        self.end += len(line)
        self._torn = False

    def sync(self) -> None:
        """Wait until the lines are on the disk. Raises OSError."""
        os.fsync(self.fd)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def end_of_last_line(fd: int) -> int:
    """Offset in bytes after the last newline of an open file; 0 where there is none."""
    end = os.fstat(fd).st_size
    while end:
        start = max(0, end - _BLOCK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def read_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, int]]:
    """The whole lines of ``path`` from offset ``start`` on, each with the offset after it; none beyond ``stop``.

    A line that has no newline yet is still being written and is not among them. A missing file has no lines.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        offset = start
        for line in file:
            offset += len(line)
            if not line.endswith(b"\n") or (stop is not None and offset > stop):
                return
            yield line, offset


def is_line_start(path: Path, offset: int) -> bool:
    """Whether a line of ``path`` begins, or the next one would, at ``offset``."""
    if offset == 0:
        return True
    try:
        with path.open("rb") as file:
            file.seek(offset - 1)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return False
