"""A checkpoint that is written while training goes on: how all ranks agree on what becomes of it.

Each rank copies its share into memory that a process of its own, the writer, shares with it. From there the save
goes through stages; in each, some writers have something to do. A rank votes in the sum that every training step makes
anyway: "my writer is done", or "it failed". Once all have voted, and so all know it in the same step, they gather what
the writers answered and enter the next stage, or drop the attempt. No rank ever waits for a disk.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias, cast

from mypt_dist.checkpoint.agreement import FAILURES, Failure, NotAgreedError, done, failed, failures_in, together
from mypt_dist.checkpoint.layout import step_name
from mypt_dist.checkpoint.orders import Commit, Discard, Open, Order, Piece, Retire, Write
from mypt_dist.checkpoint.receipts import Receipt
from mypt_dist.checkpoint.segments import Segment
from mypt_dist.checkpoint.writer_process import Answer, Writer
from mypt_dist.world import JSON, World

ALIGNMENT = 64
"""Bytes. Whole cache lines, and a multiple of every element's size."""

Fill: TypeAlias = Callable[[memoryview, Sequence[int]], None]
"""Copies every segment's bytes to its offset. The bytes are those of the moment of the call."""

VOTES = 2
"""Numbers that a rank adds to the step's sum: its writer is done, its writer failed."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank wants saved."""

    step: int
    segments: Sequence[Segment]
    fill: Fill
    rank_state: Mapping[str, JSON]
    files: Mapping[str, bytes]
    """UTF-8 text, on rank 0 alone."""
    description: Mapping[str, JSON]
    """The manifest without files and tensors; on rank 0 alone."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is committed. Known on all ranks in the same step, with the same numbers."""

    step: int
    name: str
    """Of its folder."""
    bytes: int
    stall_s: float
    """For which it held training up, on the rank that waited longest."""
    duration_s: float
    """From its begin until it would survive a power cut, as rank 0 saw it."""
    step_s: float
    """Of a training step, as rank 0 saw it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A save failed and its attempt is given up. Known on all ranks in the same step."""

    step: int
    error: NotAgreedError


Outcome: TypeAlias = Saved | Dropped


class Stage(Enum):
    """What is being done for a save. Only `WRITE` is for all writers, the others are rank 0's."""

    OPEN = auto()
    WRITE = auto()
    COMMIT = auto()
    RETIRE = auto()
    DISCARD = auto()


@dataclass
class Flight:
    """A save that has begun."""

    write: Write
    """This rank's share; its folder is filled in when known."""
    description: Mapping[str, JSON]
    bytes: int
    files: int
    begun: float
    step_s: float
    stall_s: float = 0.0
    stage: Stage = Stage.OPEN
    entered: float = 0.0
    receipts: tuple[Receipt, ...] = ()
    answer: Answer | None = field(default_factory=lambda: done(None))
    """Of this rank's writer in this stage; there at once where it has nothing to do."""


class BackgroundSaves:
    """At most one save in flight. ``begin`` and ``heard`` are called by all ranks in the same order."""

    def __init__(
        self, world: World, writer: Writer, *, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._world, self._writer, self._timeout_s, self._clock = world, writer, timeout_s, clock
        self._flight: Flight | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a save is being written, or tidied up after. The same on all ranks."""
        return self._flight is not None

    def begin(self, share: Share, step_s: float = 0.0) -> float:
        """Copy ``share`` and have it written. Returns the seconds for which that held training up.

        ``step_s``: of a training step, for whoever wants to know later. A collective. Raises `NotAgreedError` on every
        rank when a copy failed on any.
        """
        assert self._flight is None, "one at a time"
        begun = self._clock()
        write, told = together(
            self._world,
            lambda: self._copied(share),
            tell=lambda write: [write.step, _size(share), _files(share)],
        )
        plans = cast("list[tuple[int, int, int]]", told)
        if len({step for step, _, _ in plans}) > 1:
            text = f"the ranks are at different steps: {[step for step, _, _ in plans]}"
            raise NotAgreedError([Failure(self._world.rank, "ValueError", text)])
        needed, files = sum(size for _, size, _ in plans), sum(number for _, _, number in plans)
        self._flight = Flight(write, share.description, needed, files, begun, step_s)
        self._enter(Stage.OPEN)
        self._flight.stall_s = self._clock() - begun
        return self._flight.stall_s

    def vote(self) -> tuple[float, float]:
        """Whether this rank's writer is done with the stage, and whether it failed."""
        flight = self._flight
        if flight is None:
            return 0.0, 0.0
        self._listen(0.0)
        return float(_is_done(flight.answer)), float(_is_failed(flight.answer))

    def heard(self, sums: Sequence[float]) -> Outcome | None:
        """All ranks' votes, added up. When all have voted the next stage begins. What became of the save, once known.

        ``sums`` are the same on all ranks, which is what makes the few collectives of a save meet.
        """
        flight = self._flight
        if flight is None or sum(sums) < self._world.size:
            return None
        # The one line that makes all ranks agree on what happened; the same sums brought them here in the same step.
        replies = cast("list[dict[str, JSON]]", self._world.all_gather(self._reply(flight)))
        failures = failures_in(replies)
        if flight.stage in (Stage.RETIRE, Stage.DISCARD):
            self._flight = None
            return None
        if failures:
            return self._drop(flight, NotAgreedError(failures))
        return self._advance(flight, replies)

    def wait(self, wait_s: float) -> None:
        """Wait for this rank's writer, at most so long."""
        self._listen(wait_s)

    def close(self) -> None:
        """End the writer; a save in flight is lost."""
        if self._flight is not None:
            self._writer.kill()
            self._flight = None
        self._writer.close()

    def _copied(self, share: Share) -> Write:
        offsets, size = layout(share.segments)
        share.fill(self._writer.room(size), offsets)
        return Write(
            step=share.step,
            folder="",
            pieces=tuple(_piece(*pair) for pair in zip(share.segments, offsets, strict=True)),
            rank_state=dict(share.rank_state),
            files={name: content.decode() for name, content in share.files.items()},
        )

    def _listen(self, wait_s: float) -> None:
        flight = self._flight
        if flight is None or flight.answer is not None:
            return
        flight.answer = self._writer.answer(wait_s)
        if flight.answer is None and self._clock() - flight.entered > self._timeout_s:
            self._writer.kill()
            flight.answer = failed(TimeoutError(f"no answer from the disk for {self._timeout_s:g} s"))

    def _reply(self, flight: Flight) -> JSON:
        assert flight.answer is not None, "all have voted"
        seconds = {"stall_s": flight.stall_s, "since_s": self._clock() - flight.begun, "step_s": flight.step_s}
        return {**flight.answer, **seconds}

    def _advance(self, flight: Flight, replies: list[dict[str, JSON]]) -> Outcome | None:
        told = [reply["told"] for reply in replies]
        if flight.stage is Stage.OPEN:
            flight.write = flight.write.model_copy(update={"folder": str(told[0])})
            self._enter(Stage.WRITE)
        elif flight.stage is Stage.WRITE:
            if self._world.rank == 0:
                flight.receipts = tuple(Receipt.model_validate(receipt) for receipt in told)
            self._enter(Stage.COMMIT)
        else:
            self._enter(Stage.RETIRE)
            return Saved(
                step=flight.write.step,
                name=step_name(flight.write.step),
                bytes=flight.bytes,
                stall_s=max(cast("float", reply["stall_s"]) for reply in replies),
                duration_s=cast("float", replies[0]["since_s"]),
                step_s=cast("float", replies[0]["step_s"]),
            )
        return None

    def _drop(self, flight: Flight, error: NotAgreedError) -> Dropped:
        # All writers have answered: none still writes into what is deleted now.
        if flight.write.folder:
            self._enter(Stage.DISCARD)
        else:
            self._flight = None
        return Dropped(flight.write.step, error)

    def _enter(self, stage: Stage) -> None:
        flight = self._flight
        assert flight is not None
        flight.stage, flight.entered = stage, self._clock()
        flight.answer = None
        try:
            order = self._order(flight)
            if order is None:
                flight.answer = done(None)
            else:
                self._writer.order(order)
        except FAILURES as error:
            flight.answer = failed(error)

    def _order(self, flight: Flight) -> Order | None:
        step, folder = flight.write.step, flight.write.folder
        if flight.stage is Stage.WRITE:
            return flight.write
        if self._world.rank:
            return None
        match flight.stage:
            case Stage.OPEN:
                return Open(step=step, bytes=flight.bytes, files=flight.files)
            case Stage.COMMIT:
                return Commit(step=step, folder=folder, receipts=flight.receipts, description=dict(flight.description))
            case Stage.DISCARD:
                return Discard(folder=folder)
        return Retire()


def layout(segments: Sequence[Segment]) -> tuple[list[int], int]:
    """Offset of each segment in shared memory, and bytes of all."""
    offsets, end = [], 0
    for segment in segments:
        offsets.append(end)
        end += -(-segment.bytes // ALIGNMENT) * ALIGNMENT
    return offsets, end


def _piece(segment: Segment, offset: int) -> Piece:
    return Piece(
        name=segment.name,
        shape=segment.shape,
        dtype=segment.dtype,
        start=segment.start,
        length=segment.length,
        offset=offset,
    )


def _size(share: Share) -> int:
    return sum(segment.bytes for segment in share.segments) + sum(map(len, share.files.values()))


def _files(share: Share) -> int:
    """At least so many: large shares are split into more, but then inodes are not what is scarce."""
    return len({segment.folder for segment in share.segments if segment.length}) + 1 + len(share.files)


def _is_done(answer: Answer | None) -> bool:
    return answer is not None and answer["failure"] is None


def _is_failed(answer: Answer | None) -> bool:
    return answer is not None and answer["failure"] is not None
