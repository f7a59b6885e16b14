"""Which tokens are sample *n* of a run? A pure function of seed, sources and course; a position is one integer.

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

from mypt_dist.data.course import Course, lay_out
from mypt_dist.data.permute import UIntArray, derive_key, permute

IntArray: TypeAlias = NDArray[np.int64]
Shuffle: TypeAlias = Literal["full", "blocks"]

BLOCK = 1024
"""Windows of a block in the ``blocks`` shuffle: a few megabytes that a disk reads in one go."""

GONE = -1
"""Instead of the number of a source that the run no longer has."""

GENESIS = "0" * 64
"""The audit hash before the first step."""


@dataclass(frozen=True, slots=True)
class SourceShape:
    """What the order must know of a source: its name, its length in tokens and its share of the samples."""

    name: str
    tokens: int
    weight: float = 1.0
    """Where no course says otherwise."""
    rows: bool = False
    """Whether its tokens stand in rows of one window each, which stay whole."""


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
    def of(cls, tokens: int, context: int, *, rows: bool = False) -> "Windows":
        """All windows that fit whatever the offset; at least one. Needs ``tokens > context``.

        ``rows``: every window is a row, so that borders never move.
        """
        length = context + 1
        assert tokens >= length, "the caller refuses streams shorter than one window"
        if rows:
            assert tokens % length == 0, "the caller refuses rows of another length"
            return cls(tokens // length, length, 0)
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

    def __init__(
        self,
        sources: Sequence[SourceShape],
        *,
        context: int,
        seed: int,
        shuffle: Shuffle = "full",
        course: Course | None = None,
    ) -> None:
        """``course``: of the mixture; none: the sources' weights hold from the first sample to the last."""
        self._sources = tuple(sources)
        self._windows = [Windows.of(source.tokens, context, rows=source.rows) for source in sources]
        self._course = course or lay_out({source.name: source.weight for source in sources})
        self._context, self._seed, self._shuffle = context, seed, shuffle
        number = {source.name: j for j, source in enumerate(sources)}
        self._known = [np.array([number.get(name, GONE) for name in s.quota]) for s in self._course.stretches]
        self._before = [np.array([s.before[name] for name in s.quota]) for s in self._course.stretches]

    @property
    def course(self) -> Course:
        """From which sample on which weights hold."""
        return self._course

    @property
    def first_known(self) -> int:
        """The first sample from which on all come from sources that the run still has; 0 unless some were removed."""
        gone = [j for j, known in enumerate(self._known) if (known == GONE).any()]
        return self._course.stretches[gone[-1] + 1].first if gone else 0

    def samples(self, first: int, count: int) -> Samples:
        """Samples ``first`` … ``first + count - 1`` of the run."""
        source, number = self._turns(first, first + count)
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
        counts = self._course.consumed(samples)
        return {source.name: counts.get(source.name, 0) for source in self._sources}

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each source has been read after ``samples`` samples."""
        lengths = {s.name: w.count for s, w in zip(self._sources, self._windows, strict=True)}
        return {name: count / lengths[name] for name, count in self.consumed(samples).items()}

    def positions(self, samples: int) -> dict[str, dict[str, float]]:
        """Samples and tokens of each source that ever was, after ``samples`` samples, with epochs where it still is."""
        epochs = self.epochs(samples)
        return {
            name: {
                "samples": count,
                "tokens": count * self._context,
                **({"epochs": epochs[name]} if name in epochs else {}),
            }
            for name, count in {**dict.fromkeys(epochs, 0), **self._course.consumed(samples)}.items()
        }

    def _turns(self, first: int, end: int) -> tuple[IntArray, IntArray]:
        """Samples ``first`` … ``end - 1`` to their sources and to their numbers within the source."""
        parts = []
        for j, begin, behind in self._course.cut(first, end):
            stretch = self._course.stretches[j]
            turn, number = stretch.turns.locate(np.arange(begin - stretch.first, behind - stretch.first))
            parts.append((self._known[j][turn], self._before[j][turn] + number))
        source, number = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        assert GONE not in source, "nobody asks for samples of sources that were removed"
        return source, number

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
