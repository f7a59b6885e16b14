"""The micro-batches of any step for one rank, gathered and moved ahead of time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mypt_dist.data.ahead import WorkAhead
from mypt_dist.data.batch import IGNORE, Batch
from mypt_dist.data.beside import Beside
from mypt_dist.data.course import End
from mypt_dist.data.order import Order, Samples, chain
from mypt_dist.data.stream import TokenStream

CHUNK = 4096
"""Samples whose order is computed at once, at most: NumPy's cost per call is spread over many steps."""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How the samples of one step are dealt out."""

    per_step: int
    """Samples of a step, over all ranks and micro-batches."""
    micro_batch: int
    """Samples of one forward pass of one rank."""
    context: int
    rank: int = 0
    ranks: int = 1

    @property
    def tokens(self) -> tuple[int, int]:
        """Shape of a micro-batch."""
        return self.micro_batch, self.context

    @property
    def per_rank(self) -> int:
        return self.per_step // self.ranks

    @property
    def micro_batches(self) -> int:
        return self.per_rank // self.micro_batch


@dataclass(frozen=True, slots=True)
class Step:
    """One rank's part of a step, and what the whole step was made of."""

    micro_batches: list[Batch]
    samples: Samples
    """Of all ranks."""
    num_bytes: Callable[[], float]
    """Of this rank's targets, see `TokenGather.num_bytes`. Counted only when asked: bits per byte are wanted now and
    then, batches always."""
    skipped: int = 0
    """Windows of this rank that touch damaged data: they are consumed, but nothing is learned from them."""
    damaged: tuple[str, ...] = ()
    """The blocks they touch, as `TokenStream.gather` names them."""

    def fold(self, order_hash: str) -> str:
        """The audit hash after this step."""
        return chain(order_hash, self.samples)


@dataclass(frozen=True, slots=True)
class Prefetch:
    """How far a thread works ahead of training."""

    steps: int = 2
    """0: not at all, there is no thread."""
    timeout_s: float = 300.0
    """Seconds that a step waits for the thread before it is given up."""
    told: Callable[[int], None] = lambda position: None
    """Told of the sample at which a step begins, when it is asked for."""


class TokenGather:
    """Windows of token streams as batches: inputs and labels are views of one gathered block."""

    def __init__(
        self,
        streams: Sequence[TokenStream],
        byte_lengths: NDArray[np.uint16],
        vocab_size: int,
        *,
        document_end: int | None = None,
    ) -> None:
        """``document_end``: the token after which a new segment begins; None: batches have no segments."""
        self._streams = streams
        self._byte_lengths = byte_lengths
        self._vocab_size = vocab_size
        self._document_end = document_end
        self._beside = Beside.of(streams)
        self.damaged: set[str] = set()
        """Damaged blocks that batches so far were to hold. Whoever asks may empty it."""
        self.skipped = 0
        """Windows of batches so far from which nothing is learned because of them. Whoever asks may reset it."""

    def batch(self, samples: Samples, context: int) -> Batch:
        """(len(samples), context) inputs and labels on the host.

        What a mask leaves out, padding, and what would be told from another segment has no targets; nor has a window
        on damaged data, if such are skipped. Raises `DataError` for damage and for an impossible token.
        """
        block = np.empty((len(samples), context + 1), dtype=np.int64)
        starts, rows = self._by_stream(samples)
        skipped: set[int] = set()
        for number, stream in enumerate(self._streams):
            self._note(stream.gather(starts[number], block, rows[number]), skipped)
        if block.max(initial=0) >= self._vocab_size:
            for number, stream in enumerate(self._streams):
                stream.check(block[rows[number]], self._vocab_size)
        tokens = torch.from_numpy(block)
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        segments = None if self._document_end is None else segments_of(inputs, self._document_end)
        if self._beside is None:
            self.skipped += len(skipped)
            labels = _without(labels, skipped)
            return Batch(inputs, labels, (len(samples) - len(skipped)) * context, segments)
        beside = self._beside.gather(starts, rows, block.shape, segments)
        self._note(beside.damaged, skipped)
        self.skipped += len(skipped)
        labels = _without(torch.where(beside.learned, labels, IGNORE), skipped)
        learned = labels != IGNORE
        total = None if beside.weights is None else float(beside.weights[learned].sum(dtype=torch.float64))
        return Batch(inputs, labels, int(learned.sum()), beside.segments, beside.weights, total)

    def _note(self, damaged: Mapping[int, list[str]], skipped: set[int]) -> None:
        for row, blocks in damaged.items():
            skipped.add(row)
            self.damaged.update(blocks)

    def _by_stream(self, samples: Samples) -> tuple[list[list[int]], list[Sequence[int]]]:
        """Where the windows of each stream start, and which of ``samples`` they are."""
        if len(self._streams) == 1:
            return [samples.start.tolist()], [range(len(samples))]
        starts: list[list[int]] = [[] for _ in self._streams]
        rows: list[list[int]] = [[] for _ in self._streams]
        # Plain Python: a step has few windows, and NumPy's calls cost more than they do here.
        for row, (source, start) in enumerate(zip(samples.source.tolist(), samples.start.tolist(), strict=True)):
            starts[source].append(start)
            rows[source].append(row)
        return starts, list(rows)

    def num_bytes(self, batches: Sequence[Batch]) -> float:
        """UTF-8 bytes that the learned labels of host ``batches`` stand for: what bits per byte are counted in.

        Of labels that weigh more or less than 1, so many times their bytes, as of their loss.
        """
        return sum(self._bytes_of(batch) for batch in batches)

    def _bytes_of(self, batch: Batch) -> float:
        learned = batch.labels != IGNORE
        lengths = self._byte_lengths[batch.labels[learned].numpy()]
        if batch.label_weights is None:
            return int(lengths.sum(dtype=np.int64))
        return float((lengths * batch.label_weights[learned].numpy()).sum(dtype=np.float64))


def segments_of(tokens: Tensor, document_end: int) -> Tensor:
    """(B, T) tokens to how many documents have ended before each, (B, T): its end belongs to a document."""
    ends = tokens == document_end
    return ends.cumsum(dim=1) - ends.long()


def _without(labels: Tensor, rows: set[int]) -> Tensor:
    """(B, T) labels, with nothing to learn in ``rows``."""
    if rows:
        labels = labels.clone()
        labels[sorted(rows)] = IGNORE
    return labels


class Loader:
    """Stateless: the step at any position is always the same, whatever was asked for before.

    One thread gathers the next ``prefetch`` steps and starts their copies to the device while the current one trains.
    """

    def __init__(
        self,
        order: Order,
        gather: TokenGather,
        shape: BatchShape,
        *,
        device: torch.device,
        ahead: Prefetch | None = None,
    ) -> None:
        ahead = ahead or Prefetch()
        self._order, self._gather, self._shape = order, gather, shape
        self._device, self._prefetch, self._told = device, ahead.steps, ahead.told
        self._chunk = (0, order.samples(0, 0))
        self._ahead = WorkAhead(self._build, ahead.timeout_s)

    def step(self, position: int) -> Step:
        """This rank's part of the step that starts at sample ``position``. Raises `DataError`."""
        self._told(position)
        if self._prefetch == 0:
            return self._build(position)
        ahead = (position + number * self._shape.per_step for number in range(1, self._prefetch + 1))
        return self._ahead.result(position, [later for later in ahead if not self.exhausted(later)])

    @property
    def context(self) -> int:
        """Targets of one sample."""
        return self._shape.context

    def exhausted(self, position: int) -> End | None:
        """Why there is no whole step at sample ``position``; None where there is one."""
        end = self._order.course.end
        return end if end and position + self._shape.per_step > end.sample else None

    def metrics(self, position: int) -> dict[str, float]:
        """``data/tokens/NAME`` and ``data/epoch/NAME``: what each source has given at sample ``position``."""
        positions = self._order.positions(position)
        tokens = {f"data/tokens/{name}": place["tokens"] for name, place in positions.items()}
        epochs = {f"data/epoch/{name}": place["epochs"] for name, place in positions.items() if "epochs" in place}
        return {**tokens, **epochs}

    def close(self) -> None:
        """Stop gathering ahead."""
        self._ahead.close()

    def _build(self, position: int) -> Step:
        shape = self._shape
        samples = self._samples(position)
        mine = samples[shape.rank * shape.per_rank : (shape.rank + 1) * shape.per_rank]
        parts = [mine[i : i + shape.micro_batch] for i in range(0, shape.per_rank, shape.micro_batch)]
        self._gather.damaged.clear()
        self._gather.skipped = 0
        host = [self._gather.batch(part, shape.context) for part in parts]
        step = Step([self._move(batch) for batch in host], samples, lambda: self._gather.num_bytes(host))
        if not self._gather.damaged:
            return step
        return replace(step, skipped=self._gather.skipped, damaged=tuple(sorted(self._gather.damaged)))

    def _samples(self, position: int) -> Samples:
        per_step = self._shape.per_step
        first, chunk = self._chunk
        if not first <= position <= first + len(chunk) - per_step:
            # After a seek just what is asked for, then more and more: a start is quick, and going on is cheap.
            going_on = position == first + len(chunk)
            steps = max(1, min(2 * len(chunk), CHUNK, self._left(position)) // per_step) if going_on else 1
            first, chunk = self._chunk = (position, self._order.samples(position, steps * per_step))
        return chunk[position - first : position - first + per_step]

    def _left(self, position: int) -> int:
        """Samples from ``position`` to the end of the order, if it has one."""
        end = self._order.course.end
        return end.sample - position if end else CHUNK

    def _move(self, batch: Batch) -> Batch:
        if self._device.type == "cpu":
            return batch
        return batch.pin_memory().to(self._device)


class EvalWindows:
    """Fixed windows of validation streams, with their own cursor: evaluating cannot move the training order."""

    def __init__(self, gather: TokenGather, shape: BatchShape, tokens: Sequence[int], limit: int) -> None:
        self._gather, self._shape = gather, shape
        length = shape.context + 1
        fitting = [count // length for count in tokens]
        total = sum(fitting)
        chosen = np.arange(min(limit, total), dtype=np.int64) * total // max(1, min(limit, total))
        begins = np.cumsum([0, *fitting])
        self._source = np.searchsorted(begins, chosen, side="right") - 1
        self._start = (chosen - begins[self._source]) * length

    def __len__(self) -> int:
        return len(self._start)

    def batches(self) -> list[Batch]:
        """This rank's share, on the host; the shares of all ranks are the windows exactly once.

        Every rank gets as many batches, so that models whose forward pass is a collective can be evaluated too:
        a rank whose share is short repeats a window without anything to learn.
        """
        shape = self._shape
        rounds = -(-len(self) // (shape.ranks * shape.micro_batch))
        mine = np.arange(rounds * shape.micro_batch) * shape.ranks + shape.rank
        return [self._batch(part) for part in mine.reshape(rounds, shape.micro_batch)]

    def num_bytes(self, batches: Sequence[Batch]) -> float:
        """See `TokenGather.num_bytes`."""
        return self._gather.num_bytes(batches)

    def _batch(self, numbers: NDArray[np.int64]) -> Batch:
        real = numbers[numbers < len(self)]
        if len(real):
            return self._gather.batch(self._samples(real), self._shape.context)
        filler = self._gather.batch(self._samples(np.zeros(1, dtype=np.int64)), self._shape.context)
        nothing = None if filler.total_weight is None else 0.0
        return replace(filler, labels=torch.full_like(filler.labels, IGNORE), num_targets=0, total_weight=nothing)

    def _samples(self, numbers: NDArray[np.int64]) -> Samples:
        return Samples(self._source[numbers], numbers, numbers, self._start[numbers])
