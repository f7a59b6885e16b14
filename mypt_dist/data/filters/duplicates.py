"""Documents that were there before, exactly or nearly.

Near duplicates are found by MinHash (Broder 1997) of runs of 5 words, with 14 bands of 8 hashes: two documents are
taken for the same where all hashes of a band agree. Of pairs that have a share s of their runs in common,
1 - (1 - s^8)^14 are found: 56 % at 0.7, 92 % at 0.8, all but one in 2,600 at 0.9.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mypt_dist.config import Config
from mypt_dist.data.filters.sample import Sample, mixed

BANDS, ROWS, SHINGLE_WORDS = 14, 8, 5
SKETCH_BYTES = 8 * BANDS
_AT_ONCE = 1024
"""Shingles hashed at once, so that what lies between stays in the cache."""
_SALTS = mixed(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64))
_PRIME = np.uint64(0x100000001B3)


class ExactDuplicates(Config):
    """Keeps the first of identical documents. About 100 bytes of memory for each document that is kept."""

    type: Literal["exact_duplicates"] = "exact_duplicates"


class NearDuplicates(Config):
    """Keeps the first of documents that share most runs of five words."""

    type: Literal["near_duplicates"] = "near_duplicates"
    memory_mb: int = Field(default=64, ge=1, le=100_000)
    """For what is remembered: 112 bytes for each document that is kept. The fuller it is, the more of the older ones
    are forgotten, and of their near duplicates missed."""


def sketch_of(sample: Sample) -> bytes:
    """`SKETCH_BYTES`: a key for each band, or nothing for a text of fewer words than a shingle has."""
    shingles = np.unique(sample.ngrams(SHINGLE_WORDS))
    if not len(shingles):
        return b""
    lowest = np.full(BANDS * ROWS, np.iinfo(np.uint64).max, np.uint64)
    for begin in range(0, len(shingles), _AT_ONCE):
        # Multiplied by odd numbers, each salt is a permutation of its own.
        hashes = (shingles[begin : begin + _AT_ONCE, None] ^ _SALTS) * (_SALTS | np.uint64(1))
        hashes ^= hashes >> np.uint64(32)
        np.minimum(lowest, (hashes * _PRIME).min(axis=0), out=lowest)
    keys = np.arange(1, BANDS + 1, dtype=np.uint64)
    for row in lowest.reshape(BANDS, ROWS).T:
        keys = mixed(keys * _PRIME + row)
    return keys.astype("<u8").tobytes()


class SketchTable:
    """Sketches that were seen. A table of fixed size: a newer key takes the place of an older one."""

    def __init__(self, memory_mb: int) -> None:
        self._keys: NDArray[np.uint64] = np.zeros(memory_mb * (1 << 20) // 8, np.uint64)

    def has_like(self, sketch: bytes) -> bool:
        """Whether a band of ``sketch`` was seen."""
        keys = np.frombuffer(sketch, "<u8")
        return bool((self._keys[self._places(keys)] == keys).any())

    def add(self, sketch: bytes) -> None:
        """Remember ``sketch``."""
        keys = np.frombuffer(sketch, "<u8")
        self._keys[self._places(keys)] = keys

    def _places(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        return (keys % np.uint64(len(self._keys))).astype(np.intp)
