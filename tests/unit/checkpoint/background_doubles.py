"""A writer that works in the test's own process, and ranks that train and save on."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from checkpoint_doubles import Died, State, dealt, describer, quick_disk, random_state

from mypt_dist.checkpoint import BackgroundSaves, Disk, Dropped, Outcome, Retention, Saved, Segment, Setup, Share
from mypt_dist.checkpoint.orders import Order, parse_order, to_line
from mypt_dist.checkpoint.writer import Worker
from mypt_dist.checkpoint.writer_process import Answer
from mypt_dist.world import JSON, World

DIED: Answer = {"told": None, "failure": {"kind": "WriterDied", "text": "it was killed", "errno": 0}}


class InlineWriter:
    """Does every order at once with a disk of the test's; ``late``: it answers only when the test lets it.

    If its disk raises `Died`, another one takes its place, with a disk that works.
    """

    def __init__(self, root: Path, world: World, disk: Disk | None = None, rules: Retention | None = None) -> None:
        self._memory = bytearray()
        setup = Setup(root=root, rank=world.rank, size=world.size, retention=rules or Retention(keep_last=99))
        self._setup = setup
        self._worker = self._start(disk or quick_disk())
        self._pending: list[Order] = []
        self.late = False
        self.killed = 0
        self.orders: list[str] = []

    def room(self, size: int) -> memoryview:
        if len(self._memory) < size:
            self._memory = bytearray(size)
        return memoryview(self._memory)

    def order(self, order: Order) -> None:
        self.orders.append(order.do)
        self._pending.append(parse_order(to_line(order)))

    def answer(self, wait_s: float = 0.0) -> Answer | None:
        if self.late and not self.killed:
            time.sleep(min(wait_s, 0.01))
            return None
        if self.killed:
            self._pending.clear()
            return DIED
        try:
            return self._worker.answer(self._pending.pop())
        except Died:
            self._worker = self._start(quick_disk())
            return DIED

    def kill(self) -> None:
        self.killed += 1

    def close(self) -> None: ...

    def _start(self, disk: Disk) -> Worker:
        return Worker(self._setup, disk, lambda size: memoryview(self._memory)[:size])


def copy(segments: Sequence[Segment], memory: memoryview, offsets: Sequence[int]) -> None:
    """What torch does in a run."""
    for segment, offset in zip(segments, offsets, strict=True):
        memory[offset : offset + segment.bytes] = memoryview(segment.data()).cast("B")


def share(
    world: World, step: int, state: State | None = None, fill: Callable[..., None] = copy, **metrics: float
) -> Share:
    """A rank's part of a state dealt out over all."""
    segments = list(dealt(random_state(step) if state is None else state, world.rank, world.size))
    rest = {"files", "tensors", "sha256"}
    description = describer(step, metrics, world.size)({}, {}).model_dump(mode="json", exclude=rest)
    rank_state: dict[str, JSON] = {"rank": world.rank}
    files = {} if world.rank else {"tokenizer.json": b"{}"}
    return Share(
        step, segments, lambda memory, offsets: fill(segments, memory, offsets), rank_state, files, description
    )


def sums(world: World, votes: Sequence[float]) -> list[float]:
    """The training step's all-reduce."""
    told = [row for row in world.all_gather(list(votes)) if isinstance(row, list)]
    return [sum(float(str(row[slot])) for row in told) for slot in range(len(votes))]


def train(saves: BackgroundSaves, world: World, most: int = 1000) -> Iterator[Outcome]:
    """Steps until nothing is in flight any more; what was heard."""
    for _ in range(most):
        if not saves.in_flight:
            return
        heard = saves.heard(sums(world, saves.vote()))
        if isinstance(heard, Saved | Dropped):
            yield heard
    raise AssertionError("it never ended")


def save(saves: BackgroundSaves, world: World, one: Share) -> Outcome:
    """Begin, and train until it has ended."""
    saves.begin(one)
    (outcome,) = train(saves, world)
    return outcome
