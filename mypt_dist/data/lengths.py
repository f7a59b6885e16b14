"""How long are the documents of a dataset?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT = 2048
"""Document lengths below this are counted one by one, longer ones in classes less than 0.1 % wide."""
_HALF = _EXACT // 2
_CLASSES = _EXACT + _HALF * 52


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the documents of a split, end of text not counted. Above 2,048, percentiles are 0.1 % exact."""

    documents: int
    min: int
    p10: int
    median: int
    p90: int
    max: int
    histogram: tuple[tuple[int, int], ...]
    """(n, documents of fewer than n tokens, and at least n // 2), n a power of two."""


class LengthCounter:
    """Counts document lengths in classes, so that memory does not depend on the number of documents."""

    def __init__(self, eot_id: int) -> None:
        self._eot_id = eot_id
        self._counts = np.zeros(_CLASSES, np.int64)
        self._unfinished = 0
        self._min, self._max = 1 << 62, 0
        self.documents = 0

    def add(self, tokens: NDArray[Any]) -> None:
        """The next tokens (n,) of documents that end with an end of text, which does not count."""
        self.add_ends(len(tokens), np.flatnonzero(tokens == self._eot_id) + 1, ending=1)

    def add_ends(self, tokens: int, ends: NDArray[np.int64], *, ending: int = 0) -> None:
        """So many tokens more. Documents end before the offsets ``ends``; their last ``ending`` tokens do not count."""
        if not len(ends):
            self._unfinished += tokens
            return
        lengths = np.diff(ends, prepend=0) - ending
        lengths[0] += self._unfinished
        self._unfinished = tokens - int(ends[-1])
        self._counts += np.bincount(_class_of(lengths), minlength=_CLASSES)
        self._min, self._max = min(self._min, int(lengths.min())), max(self._max, int(lengths.max()))
        self.documents += len(lengths)

    def summary(self) -> Lengths:
        """Of all documents that have ended; there must be one."""
        below = np.cumsum(self._counts)
        p10, median, p90 = (self._percentile(below, share) for share in (0.1, 0.5, 0.9))
        return Lengths(self.documents, self._min, p10, median, p90, self._max, self._histogram())

    def _percentile(self, below: NDArray[np.int64], share: float) -> int:
        """The smallest length that at least ``share`` of the documents do not exceed."""
        found = int(np.searchsorted(below, max(1, int(np.ceil(share * self.documents)))))
        return max(self._min, min(self._max, int(_least_of(np.array([found]))[0])))

    def _histogram(self) -> tuple[tuple[int, int], ...]:
        used = np.flatnonzero(self._counts)
        rows: dict[int, int] = {}
        for least, count in zip(_least_of(used).tolist(), self._counts[used].tolist(), strict=True):
            bound = 1 << least.bit_length()
            rows[bound] = rows.get(bound, 0) + count
        return tuple(rows.items())


def _class_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    shift = np.maximum(np.frexp(lengths.astype(np.float64))[1].astype(np.int64) - _EXACT.bit_length() + 1, 0)
    classes: NDArray[np.int64] = shift * _HALF + (lengths >> shift)
    return classes


def _least_of(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest length of each class: the inverse of `_class_of`."""
    shift = np.maximum(classes // _HALF - 1, 0)
    least: NDArray[np.int64] = (classes - shift * _HALF) << shift
    return least
