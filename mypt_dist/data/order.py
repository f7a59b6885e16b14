"""Which tokens are sample *n* of a run? A pure function of seed, sources and weights; a position is one integer.

Sample numbers run over the whole life of a run and over all ranks. `Order.samples` maps them to windows of token
streams in O(batch) time and memory wherever it starts, so a rank's share of a step is a slice, a resume is an integer,
and the number of ranks, micro-batches and prefetched steps cannot matter.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mypt_dist.data.interleave import interleave
from mypt_dist.data.permute import UIntArray, derive_key, permute

IntArray: TypeAlias = NDArray[np.int64]
Shuffle: TypeAlias = Literal["full", "blocks"]

BLOCK = 1024
"""Windows of a block in the ``blocks`` shuffle: a few megabytes that a disk reads in one go."""

GENESIS = "0" * 64
"""The audit hash before the first step."""


@dataclass(frozen=True, slots=True)
class SourceShape:
    """What the order must know of a source: its name, its length in tokens and its share of the samples."""

    name: str
    tokens: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Windows:
    """How a stream of tokens is cut into windows of ``context + 1``, anew in every epoch."""

    count: int
    """Windows of every epoch."""
    length: int
    """Tokens of a window: the context and the target of its last position."""
    max_offset: int
    """The first window of an epoch starts at an offset drawn from [0, max_offset], so that borders move."""

    @classmethod
    def of(cls, tokens: int, context: int) -> "Windows":
        """All windows that fit whatever the offset; at least one. Needs ``tokens > context``."""
        length = context + 1
        assert tokens >= length, "the caller refuses streams shorter than one window"
        count = max(1, (tokens - context) // length)
        return cls(count, length, min(context, tokens - count * length))


@dataclass(frozen=True, slots=True)
class Samples:
    """Consecutive samples of a run, as four columns of equal length."""

    source: IntArray
    epoch: IntArray
    window: IntArray
    """Number of the window within its source and epoch."""
    start: IntArray
    """First token of the window within its source's stream."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, part: slice) -> "Samples":
        return Samples(self.source[part], self.epoch[part], self.window[part], self.start[part])


class Order:
    """The order of the data of one run."""

    def __init__(self, sources: Sequence[SourceShape], *, context: int, seed: int, shuffle: Shuffle = "full") -> None:
        self._sources = tuple(sources)
        self._windows = [Windows.of(source.tokens, context) for source in sources]
        self._interleave = interleave([source.weight for source in sources])
        self._shuffle = shuffle
        self._seed = seed

    def samples(self, first: int, count: int) -> Samples:
        """Samples ``first`` … ``first + count - 1`` of the run."""
        source, number = self._interleave.locate(np.arange(first, first + count, dtype=np.int64))
        epoch, window, start = (np.empty_like(number) for _ in range(3))
        for j, windows in enumerate(self._windows):
            mine = np.flatnonzero(source == j)
            if len(mine):
                epoch[mine], place = np.divmod(number[mine], windows.count)
                key = derive_key(self._seed, self._sources[j].name, _distinct(epoch[mine]).astype(np.uint64))
                window[mine] = self._place(place, windows.count, key)
                offset = derive_key("offset", key) % np.uint64(windows.max_offset + 1)
                start[mine] = offset.astype(np.int64) + window[mine] * windows.length
        return Samples(source, epoch, window, start)

    def consumed(self, samples: int) -> dict[str, int]:
        """How many of the first ``samples`` samples came from each source."""
        counts = self._interleave.consumed(samples)
        return {source.name: count for source, count in zip(self._sources, counts, strict=True)}

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each source has been read after ``samples`` samples."""
        lengths = {s.name: w.count for s, w in zip(self._sources, self._windows, strict=True)}
        return {name: count / lengths[name] for name, count in self.consumed(samples).items()}

    def _place(self, place: IntArray, count: int, key: UIntArray) -> IntArray:
        return permute(place, count, key) if self._shuffle == "full" else _permute_blocks(place, count, key)


def _distinct(epochs: IntArray) -> IntArray:
    """One number if all are equal, as they nearly always are: what follows is then computed once."""
    return epochs[:1] if epochs[0] == epochs[-1] else epochs


def _permute_blocks(place: IntArray, count: int, key: UIntArray) -> IntArray:
    """Blocks in shuffled order, windows shuffled within each: random enough, and kind to slow disks."""
    blocks, rest = divmod(count, BLOCK)
    if blocks == 0:
        return permute(place, count, key)
    # The short block stands somewhere among the full ones, not always at the end of the epoch.
    gap = (derive_key("gap", key) % np.uint64(blocks + 1)).astype(np.int64) * BLOCK
    short = (place >= gap) & (place < gap + rest)
    slot, inner = np.divmod(np.where(place >= gap + rest, place - rest, place), BLOCK)
    block = permute(np.where(short, 0, slot), blocks, key)
    inside = derive_key("block", key, block.astype(np.uint64))
    full = block * BLOCK + permute(inner, BLOCK, inside)
    tail = permute(np.where(short, place - gap, 0), rest, derive_key("rest", key)) if rest else inner
    result: IntArray = np.where(short, blocks * BLOCK + tail, full)
    return result


def chain(previous: str, step: Samples) -> str:
    """The audit hash after a step: its sorted sample ids folded into the hash before it.

    Two runs that claim the same order can be compared by one string.
    """
    rows = np.lexsort((step.window, step.epoch, step.source))
    ids = np.empty((len(step), 3), dtype="<i8")
    for column, values in enumerate((step.source, step.epoch, step.window)):
        ids[:, column] = values[rows]
    return hashlib.sha256(bytes.fromhex(previous) + ids.tobytes()).hexdigest()
