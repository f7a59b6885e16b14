"""Which source does sample *n* come from? An exact, low-discrepancy sequence, not a coin flip.

Weights become whole numbers q_j with sum P. Within a period of P samples the i-th sample of source j may come at
floor(i·P/q_j) at the earliest and must have come by ceil((i+1)·P/q_j); serving the earliest deadline first always
meets all of them (Steiner & Yeomans, 1993), so at every prefix each source is within one sample of its share.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np
from numpy.typing import NDArray

EXACT_PERIOD = 10**6
"""Weights whose period is no longer are kept exactly: decimals with six digits that add up to one, for instance.
A period takes some 3 µs and 16 bytes for each of its samples when a run starts."""

ROUNDED_PERIOD = 1 << 16
"""Of weights that would need a longer one: they are rounded to one in so many."""


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

    def find(self, source: int, number: int) -> int:
        """Which sample is number ``number`` of ``source``? The inverse of `locate`."""
        rounds, rank = divmod(number, int(self.quota[source]))
        return rounds * self.period + int(np.flatnonzero(self.source == source)[rank])

    def consumed(self, samples: int) -> list[int]:
        """How many of the first ``samples`` samples came from each source."""
        rounds, rest = divmod(samples, self.period)
        partial = np.bincount(self.source[:rest], minlength=len(self.quota))
        return [rounds * int(whole) + int(part) for whole, part in zip(self.quota, partial, strict=True)]


@lru_cache(maxsize=64)
def interleave(quota: tuple[int, ...]) -> Interleave:
    """The sequence in which source j has ``quota[j]`` > 0 of every ``sum(quota)`` samples."""
    period = sum(quota)
    waiting = [(0, j) for j in range(len(quota))]  # release, source
    due: list[tuple[int, int]] = []  # deadline, source
    served = [0] * len(quota)
    source, rank = np.zeros(period, dtype=np.int64), np.zeros(period, dtype=np.int64)
    for place in range(period):
        while waiting and waiting[0][0] <= place:
            _, j = heapq.heappop(waiting)
            heapq.heappush(due, (-(-(served[j] + 1) * period // quota[j]), j))
        _, j = heapq.heappop(due)
        source[place], rank[place] = j, served[j]
        served[j] += 1
        if served[j] < quota[j]:
            heapq.heappush(waiting, (served[j] * period // quota[j], j))
    return Interleave(np.array(quota, dtype=np.int64), source, rank)


def exact_shares(weights: Sequence[float]) -> list[Fraction]:
    """Parts of one, in the proportion of ``weights`` as they are written: 0.1 is a tenth, not its nearest float."""
    fractions = [Fraction(str(weight)) for weight in weights]
    total = sum(fractions)
    return [fraction / total for fraction in fractions]


def is_exact(weights: Sequence[float]) -> bool:
    """Whether `quotas` keeps ``weights`` as they are."""
    return lcm(*(share.denominator for share in exact_shares(weights))) <= EXACT_PERIOD


def quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Samples of each source in a period, for ``weights`` (all positive, of any scale)."""
    shares = exact_shares(weights)
    period = lcm(*(share.denominator for share in shares))
    if period <= EXACT_PERIOD:
        return tuple(int(share * period) for share in shares)
    floors = [max(1, int(share * ROUNDED_PERIOD)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda j: floors[j] - shares[j] * ROUNDED_PERIOD)
    for j in by_remainder[: max(0, ROUNDED_PERIOD - sum(floors))]:
        floors[j] += 1
    # Sources too small for one sample in a period get one all the same, at the cost of the largest.
    floors[floors.index(max(floors))] -= max(0, sum(floors) - ROUNDED_PERIOD)
    return tuple(floors)
