"""Checksums of a shard's blocks: written by `mypt data prepare`, compared when a run first reads a block.

A block is 1 MiB of the file, header included. Larger ones would make the first windows of a run wait longer (CRC-32
takes about 1 ms for 1 MiB), smaller ones would make ``dataset.json`` large: at 1 MiB it grows by 8 bytes for every
half million 16-bit tokens, by 15 MB for 10^12 of them.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

BLOCK_BITS = 20
BLOCK_BYTES = 1 << BLOCK_BITS
DIGITS = 8
"""Of a checksum, in hexadecimal."""


class BlockChecksums:
    """CRC-32 of every block of a file whose bytes come in pieces of any size."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._crc = self._filled = 0

    def update(self, data: "bytes | memoryview") -> None:
        """Add the next bytes of the file."""
        with memoryview(data).cast("B") as view:
            begin = 0
            while begin < len(view):
                part = view[begin : begin + BLOCK_BYTES - self._filled]
                self._crc = zlib.crc32(part, self._crc)
                self._filled += len(part)
                begin += len(part)
                if self._filled == BLOCK_BYTES:
                    self._end_block()

    def hexdigest(self) -> str:
        """`DIGITS` digits for each block so far, the last one as long as it is."""
        return "".join([*self._done, *([_spelled(self._crc)] if self._filled else [])])

    def _end_block(self) -> None:
        self._done.append(_spelled(self._crc))
        self._crc = self._filled = 0


def checksums(text: str) -> NDArray[np.uint32]:
    """The numbers that `BlockChecksums.hexdigest` spells."""
    return np.frombuffer(bytes.fromhex(text), ">u4")


def blocks_of(size: int) -> int:
    """Blocks of a file of ``size`` bytes."""
    return -(-size // BLOCK_BYTES)


def _spelled(crc: int) -> str:
    return f"{crc:0{DIGITS}x}"
