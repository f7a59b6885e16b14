"""What does a filter see of a document?"""

import re
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

HEAD_CHARACTERS = 1 << 18
"""A longer document is judged by so much of its beginning: what a filter needs is bounded, whatever it is given."""
_WORD = re.compile(r"\w+")
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Sample:
    """A document as filters see it."""

    head: str
    """Its text, or the first `HEAD_CHARACTERS`."""
    characters: int
    """Of the whole document."""

    @classmethod
    def of(cls, text: str) -> "Sample":
        """The sample of a document that is in memory."""
        return cls(text[:HEAD_CHARACTERS], len(text))

    @cached_property
    def words(self) -> list[str]:
        """Runs of letters and digits in small letters."""
        return _WORD.findall(self.head.lower())

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """(words,) A number for each word, the same on every machine."""
        numbers = [zlib.crc32(word.encode()) for word in self.words]
        return mixed(np.array(numbers, np.uint64))

    def ngrams(self, n: int) -> NDArray[np.uint64]:
        """(words - n + 1,) A number for each run of ``n`` words; none where there are fewer words."""
        hashes = self.hashes
        count = max(0, len(hashes) - n + 1)
        found = hashes[:count].copy()
        for i in range(1, n):
            found *= _ODD
            found += hashes[i : i + count]
        return mixed(found)


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers whose every bit depends on every bit (the finaliser of SplitMix64, Steele, Lea and Flood 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIX[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIX[1]
    return numbers ^ (numbers >> np.uint64(31))
