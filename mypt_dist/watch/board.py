"""What a rank is at, in memory that it shares with its guard: written in a microsecond, read without asking it."""

import mmap
import os
import struct
import time
from typing import Final, NamedTuple

RECORD: Final = struct.Struct("<Qqdd?24s")
SIZE: Final = mmap.PAGESIZE

# Looked up once: a mark is made several times a step.
_pack, _now = RECORD.pack_into, time.monotonic


class Position(NamedTuple):
    """What a rank is at."""

    changes: int
    """Grows with every change: two looks that find the same number have seen one whole record."""
    step: int
    """The one in progress, counted from 1; what happens between steps belongs to the next."""
    since: float
    """Seconds of the monotonic clock, which all processes of a machine share."""
    limit_s: float
    public: bool
    """Whether the run's folder is this run's to write in."""
    phase: str


class Board:
    """One record. The rank writes, its guard reads."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)
        self._changes = 0
        self._encoded: dict[str, bytes] = {}

    def mark(self, phase: str, step: int, limit_s: float, *, public: bool = False) -> None:
        """The rank is at ``phase`` from now on."""
        self._changes += 1
        name = self._encoded.get(phase) or self._encoded.setdefault(phase, phase.encode())
        _pack(self._memory, 0, self._changes, step, _now(), limit_s, public, name)

    def read(self) -> Position:
        """The newest record."""
        changes, step, since, limit_s, public, phase = RECORD.unpack_from(self._memory)
        return Position(changes, step, since, limit_s, public, phase.rstrip(b"\0").decode(errors="replace"))


def shared_memory(name: str, size: int = 0) -> int:
    """The descriptor of ``size`` bytes of memory that a child process can be given."""
    descriptor = os.memfd_create(name)
    os.ftruncate(descriptor, size)
    return descriptor
