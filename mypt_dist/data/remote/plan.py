"""Which shards does training read, and when? Pure functions of the order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.manifest import ShardEntry
from mypt_dist.data.order import BLOCK, Samples, Shuffle

IntArray: TypeAlias = NDArray[np.int64]
ShardKey: TypeAlias = tuple[int, int]
"""Number of the source, and of the shard within its split."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The shards of one split: tokens and bytes of each."""

    tokens: IntArray
    bytes: IntArray

    @classmethod
    def of(cls, entries: Sequence[ShardEntry]) -> "Layout":
        """Of shards as a manifest lists them."""
        return cls(
            np.array([entry.tokens for entry in entries], dtype=np.int64),
            np.array([entry.bytes for entry in entries], dtype=np.int64),
        )

    @property
    def ends(self) -> IntArray:
        """The token behind each shard's last."""
        return np.cumsum(self.tokens)


def in_order_of_use(samples: Samples, length: int, ends: Sequence[IntArray | None]) -> list[ShardKey]:
    """The shards that windows of ``length`` tokens touch, each once, in the order in which they are first read.

    ``ends``: of the shards of each source, see `Layout`; None for a source that is not asked about.
    """
    found: list[tuple[int, ShardKey]] = []
    for source, behind in enumerate(ends):
        rows = np.flatnonzero(samples.source == source)
        if behind is None or not len(rows):
            continue
        first = np.searchsorted(behind, samples.start[rows], side="right")
        last = np.searchsorted(behind, samples.start[rows] + length - 1, side="right")
        for further in range(int((last - first).max()) + 1):
            touching = first + further <= last
            shards, where = np.unique((first + further)[touching], return_index=True)
            found += [
                (row, (source, shard))
                for row, shard in zip(rows[touching][where].tolist(), shards.tolist(), strict=True)
            ]
    return list(dict.fromkeys(key for _, key in sorted(found)))


def part_of_rank(samples: Samples, per_step: int, rank: int, ranks: int) -> Samples:
    """What ``rank`` reads of whole steps of ``per_step`` samples."""
    share = per_step // ranks
    place = np.arange(len(samples)) % per_step
    mine = (place >= rank * share) & (place < (rank + 1) * share)
    return Samples(samples.source[mine], samples.epoch[mine], samples.window[mine], samples.start[mine])


def needed_bytes(layout: Layout, shuffle: Shuffle, windows: int, length: int) -> int:
    """What must be in the cache at once for any ``windows`` windows of ``length`` tokens in a row.

    With the ``full`` shuffle that is everything: each window may lie in any shard. With ``blocks``, an upper bound.
    """
    total = int(layout.bytes.sum())
    if shuffle == "full" or not total:
        return total
    # At both ends a part of a block, and in between an epoch may end.
    blocks = windows // BLOCK + 4
    return min(total, blocks * widest(layout, BLOCK * length))


def widest(layout: Layout, tokens: int) -> int:
    """Bytes of the shards that ``tokens`` tokens in a row touch, wherever they lie: the most there can be."""
    ends = layout.ends
    # A row that begins with the last token of a shard reaches furthest.
    last = np.minimum(np.searchsorted(ends, ends + tokens - 2, side="right"), len(ends) - 1)
    sums = np.concatenate([[0], np.cumsum(layout.bytes)])
    return int((sums[last + 1] - sums[np.arange(len(ends))]).max())


def fetched_an_epoch(layout: Layout, length: int, cache_bytes: int) -> int:
    """About how many bytes an epoch of the ``blocks`` shuffle fetches with a cache that is smaller than the split.

    A block finds its shards in the cache with the share of the split that the cache holds.
    """
    total, tokens = int(layout.bytes.sum()), int(layout.tokens.sum())
    if cache_bytes >= total:
        return 0
    blocks = max(1, tokens // (BLOCK * length))
    each = min(total, total * (1 / len(layout.bytes) + 1 / blocks))
    return int(blocks * each * (1 - cache_bytes / total))
