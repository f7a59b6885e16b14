"""The tokens of one shard while training: mapped or read, and every block compared with its checksum before use."""

import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.blocks import BLOCK_BITS, BLOCK_BYTES, blocks_of, checksums
from mypt_dist.data.files import PatientFiles
from mypt_dist.data.manifest import ShardEntry

Reader: TypeAlias = Literal["memmap", "pread"]

RIGHT, UNSEEN, DAMAGED = 0, 1, 2
"""States of a block. Zero is the one that needs no second look."""


class ShardTokens:
    """One shard. Checksums are looked at once in a run, when a block is first needed.

    Blocks are read for that through `PatientFiles` by either reader, so that a page which cannot be read, or is gone,
    is an error at its first use and not a signal; later uses of a mapped page come from memory.
    """

    def __init__(self, view: NDArray[Any], where: Path, entry: ShardEntry, files: PatientFiles, reader: Reader) -> None:
        """``view``: the tokens, mapped."""
        self.path, self.entry = where, entry
        self.width, self.begin = view.dtype.itemsize, entry.begin
        self._dtype = view.dtype
        self._files = files
        self._crcs = checksums(entry.crc32 or "")
        # A plain view of the map: slicing np.memmap itself costs microseconds of Python each time.
        self.view: NDArray[Any] | None = np.asarray(view) if reader == "memmap" else None
        self.state = bytearray([UNSEEN if len(self._crcs) else RIGHT]) * blocks_of(entry.bytes)
        """Of each block; one byte each, so that asking costs tens of nanoseconds."""
        self.settled = not len(self._crcs)
        """Whether every block is `RIGHT`, so that nobody has to ask."""

    def __len__(self) -> int:
        return self.entry.tokens

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """Tokens [``begin``, ``end``), whatever their state. Raises `DataError` where the disk does not give them."""
        if self.view is not None:
            return self.view[begin:end]
        offset, length = self.begin + begin * self.width, (end - begin) * self.width
        return np.frombuffer(self._files.read(self.path, self.entry.bytes, offset, length), self._dtype)

    def damaged(self, begin: int, end: int) -> list[int]:
        """Numbers of the damaged blocks that hold a part of tokens [``begin``, ``end``).

        Raises `DataError` as `read`.
        """
        first = (self.begin + begin * self.width) >> BLOCK_BITS
        last = (self.begin + end * self.width - 1) >> BLOCK_BITS
        found = []
        for number in range(first, last + 1):
            if self.state[number] == UNSEEN:
                self.state[number] = RIGHT if self._crc(number) == self._crcs[number] else DAMAGED
                self.settled = not any(self.state)
            if self.state[number] == DAMAGED:
                found.append(number)
        return found

    def mark_damaged(self, number: int) -> None:
        """Take a block for damaged without a look, if there is one of this number."""
        if number < len(self.state):
            self.state[number], self.settled = DAMAGED, False

    def complaint(self, number: int) -> str:
        """What is wrong with a damaged block, and where it is."""
        begin = number * BLOCK_BYTES
        end = min(begin + BLOCK_BYTES, self.entry.bytes)
        return (
            f"{self.path}: block {number} (bytes {begin:,} to {end - 1:,}) is damaged: its CRC-32 is "
            f"{self._crc(number):08x}, dataset.json says {self._crcs[number]:08x}. Restore the shard from a copy and "
            "run the same command again, or leave such blocks out: data.on_damage=skip --allow-change data.on_damage"
        )

    def _crc(self, number: int) -> int:
        begin = number * BLOCK_BYTES
        length = min(BLOCK_BYTES, self.entry.bytes - begin)
        return zlib.crc32(self._files.read(self.path, self.entry.bytes, begin, length))


class ArrayTokens:
    """Tokens that are in memory already, and right."""

    def __init__(self, tokens: NDArray[Any]) -> None:
        self.view: NDArray[Any] | None = tokens
        self.width, self.begin = tokens.dtype.itemsize, 0
        self.state = bytearray(blocks_of(tokens.nbytes))
        self.settled = True

    def __len__(self) -> int:
        return 0 if self.view is None else len(self.view)

    def read(self, begin: int, end: int) -> NDArray[Any]:
        """Tokens [``begin``, ``end``)."""
        assert self.view is not None, "given at the start"
        return self.view[begin:end]

    def damaged(self, begin: int, end: int) -> list[int]:
        """None."""
        return []
