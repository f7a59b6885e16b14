"""Which source does sample *n* come from? An exact, low-discrepancy sequence, not a coin flip.

Weights become whole numbers q_j with sum P. Within a period of P samples the i-th sample of source j may come at
floor(i·P/q_j) at the earliest and must have come by ceil((i+1)·P/q_j); serving the earliest deadline first always
meets all of them (Steiner & Yeomans, 1993), so at every prefix each source is within one sample of its share.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
from numpy.typing import NDArray

MAX_PERIOD = 1 << 16
"""Weights like 0.35 are kept exactly; only ones that need a longer period are rounded, to 1 in 65536."""


@dataclass(frozen=True, slots=True)
class Interleave:
    """One period of the sequence, and the counts that make any seek O(1)."""

    quota: NDArray[np.int64]
    """(sources,): samples of each source in a period."""
    source: NDArray[np.int64]
    """(period,): the source of each sample."""
    rank: NDArray[np.int64]
    """(period,): how many samples of the same source come before it in the period."""

    @property
    def period(self) -> int:
        return len(self.source)

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,) sample numbers to their sources and to their numbers within the source."""
        rounds, place = np.divmod(samples, self.period)
        source = self.source[place]
        return source, rounds * self.quota[source] + self.rank[place]

    def consumed(self, samples: int) -> list[int]:
        """How many of the first ``samples`` samples came from each source."""
        rounds, rest = divmod(samples, self.period)
        partial = np.bincount(self.source[:rest], minlength=len(self.quota))
        return [int(count) for count in rounds * self.quota + partial]


def interleave(weights: Sequence[float]) -> Interleave:
    """The sequence for ``weights`` (all positive, of any scale)."""
    quota = _quota(weights)
    period = sum(quota)
    waiting = sorted((0, -(-period // q), j, 0) for j, q in enumerate(quota))  # release, deadline, source, rank
    due: list[tuple[int, int, int]] = []
    source, rank = np.zeros(period, dtype=np.int64), np.zeros(period, dtype=np.int64)
    heapq.heapify(waiting)
    for place in range(period):
        while waiting and waiting[0][0] <= place:
            _, deadline, j, i = heapq.heappop(waiting)
            heapq.heappush(due, (deadline, j, i))
        _, j, i = heapq.heappop(due)
        source[place], rank[place] = j, i
        if i + 1 < quota[j]:
            release, deadline = (i + 1) * period // quota[j], -(-(i + 2) * period // quota[j])
            heapq.heappush(waiting, (release, deadline, j, i + 1))
    return Interleave(np.array(quota, dtype=np.int64), source, rank)


def _quota(weights: Sequence[float]) -> list[int]:
    fractions = [Fraction(str(weight)) for weight in weights]
    total = sum(fractions)
    shares = [fraction / total for fraction in fractions]
    period = lcm(*(share.denominator for share in shares))
    if period <= MAX_PERIOD:
        return [int(share * period) for share in shares]
    floors = [max(1, int(share * MAX_PERIOD)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda j: floors[j] - shares[j] * MAX_PERIOD)
    for j in by_remainder[: max(0, MAX_PERIOD - sum(floors))]:
        floors[j] += 1
    # Sources too small for one sample in a period get one all the same, at the cost of the largest.
    floors[floors.index(max(floors))] -= max(0, sum(floors) - MAX_PERIOD)
    return floors
