"""What stands in for ranks, disks and training state in the tests of checkpoints."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mypt_dist.checkpoint import Checkpoint, CheckpointStore, Disk, Files, Manifest, Retention, Segment
from mypt_dist.errors import LostPeerError
from mypt_dist.world import JSON, Solo, World

T = TypeVar("T")
State = dict[str, NDArray[np.generic]]

DTYPES = {
    "float64": "F64",
    "int64": "I64",
    "float32": "F32",
    "int32": "I32",
    "uint16": "BF16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""NumPy has no bfloat16: two bytes are two bytes."""


class Meeting:
    """Where the ranks of a world leave their values. Who waits for a rank that has ended hears that it did."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._changed = threading.Condition()
        self._rounds: dict[int, dict[int, JSON]] = {}
        self._ended: set[int] = set()

    def gather(self, number: int, rank: int, value: JSON) -> list[JSON]:
        with self._changed:
            given = self._rounds.setdefault(number, {})
            given[rank] = value
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: len(given) == self._size or self._ended - given.keys(), 30)
            if len(given) < self._size:
                raise LostPeerError("a peer died")
            return [given[peer] for peer in range(self._size)]

    def leave(self, rank: int) -> None:
        with self._changed:
            self._ended.add(rank)
            self._changed.notify_all()


class ThreadWorld:
    """Ranks are threads."""

    def __init__(self, rank: int, size: int, meeting: Meeting) -> None:
        self.rank = rank
        self.size = size
        self._meeting = meeting
        self._number = 0

    def all_gather(self, value: JSON) -> list[JSON]:
        self._number += 1
        return self._meeting.gather(self._number, self.rank, value)


def run_ranks(size: int, action: Callable[[World], T]) -> list[T | BaseException]:
    """``action`` on every rank of a world; what each returned or raised."""
    meeting = Meeting(size)
    outcomes: list[T | BaseException] = [RuntimeError("did not run")] * size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = action(ThreadWorld(rank, size, meeting))
        except BaseException as error:  # noqa: BLE001 - handed to the test
            outcomes[rank] = error
        meeting.leave(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def on_ranks(size: int, action: Callable[[World], T]) -> list[T]:
    """As `run_ranks`, where no rank may fail."""
    results = []
    for outcome in run_ranks(size, action):
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results


class QuickFiles(Files):
    """The real calls, except that nothing waits for the disk."""

    def sync(self, descriptor: int) -> None:
        os.fstat(descriptor)

    def sync_folder(self, path: Path) -> None:
        if not path.is_dir():
            raise FileNotFoundError(path)


def quick_disk(files: Files | None = None, part_bytes: int = 256 << 20) -> Disk:
    """One thread, so that calls come in one order, and no waiting."""
    return Disk(files=files or QuickFiles(), threads=1, part_bytes=part_bytes, sleep=lambda seconds: None)


class Died(BaseException):
    """The process was killed here: nothing it would have done afterwards happens."""


class FaultyFiles(QuickFiles):
    """Fails, or dies, at call number ``at``, counted from 0, before or after the call has its effect."""

    CALLS = frozenset(name for name in vars(Files) if not name.startswith("_"))

    def __init__(self, at: int, error: BaseException, *, after: bool = False, only: str = "") -> None:
        self._at, self._error, self._after, self._only = at, error, after, only
        self._dead = False
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> object:
        method = super().__getattribute__(name)
        return partial(self._call, name, method) if name in FaultyFiles.CALLS else method

    def _call(self, name: str, method: Callable[..., object], *args: object) -> object:
        if self._dead:
            if name == "close":
                method(*args)
            raise Died
        now = not self._only or name == self._only
        number = sum(call == self._only for call in self.calls) if self._only else len(self.calls)
        self.calls.append(name)
        if not now or number != self._at:
            return method(*args)
        self._dead = isinstance(self._error, Died)
        if self._after or name == "close":
            method(*args)
        raise self._error


def random_state(seed: int = 0) -> State:
    """A few tensors of every kind: a scalar, one without elements, one larger than a small part, odd sizes."""
    rng = np.random.default_rng(seed)
    return {
        "model/token.weight": rng.random((13, 8), dtype=np.float32),
        "model/norm.weight": rng.integers(0, 1 << 16, 7).astype(np.uint16),
        "model/none": np.zeros((0, 4), dtype=np.float32),
        "optimizer/exp_avg/token.weight": rng.random((13, 8), dtype=np.float32),
        "optimizer/step/token.weight": np.array(seed + 3, dtype=np.int64),
        "optimizer/mask": rng.random((3, 3)) < 0.5,
    }


def piece(name: str, array: NDArray[np.generic], start: int, length: int) -> Segment:
    """``length`` elements of ``array`` from ``start`` on."""
    data = np.ascontiguousarray(array).reshape(-1)[start : start + length]
    return Segment(name, array.shape, DTYPES[array.dtype.name], start, length, lambda: data.view(np.uint8))


def dealt(state: State, rank: int, size: int) -> Iterator[Segment]:
    """A rank's share: of every tensor the contiguous range that a flat partition gives it."""
    for name, array in state.items():
        ends = [array.size * r // size for r in (rank, rank + 1)]
        yield piece(name, array, ends[0], ends[1] - ends[0])


def describer(
    step: int, metrics: Mapping[str, float] | None = None, world_size: int = 1, *, healthy: bool = True
) -> Callable[..., Manifest]:
    """A manifest with everything that is required."""
    return lambda files, tensors: Manifest(
        step=step,
        tokens=step * 100,
        samples=step * 10,
        order_hash="0" * 8,
        data={"fingerprint": "abc"},
        seed=1,
        world_size=world_size,
        engine={"kind": "test"},
        run={"name": "test", "rate": 3e-4},
        code={"version": "0"},
        metrics=dict(metrics or {}),
        healthy=healthy,
        files=files,
        tensors=tensors,
    )


def save_dealt(
    store: CheckpointStore, world: World, step: int, state: State, *, healthy: bool = True, **metrics: float
) -> Path:
    """Save ``state`` dealt out over the ranks."""
    return store.save(
        step,
        dealt(state, world.rank, world.size),
        rank_state={"rank": world.rank, "step": step},
        files={"tokenizer.json": b'{"kind": "byte"}'} if world.rank == 0 else {},
        describe=describer(step, metrics, world.size, healthy=healthy),
    )


def save_alone(root: Path, step: int, state: State | None = None, disk: Disk | None = None, **metrics: float) -> Path:
    """Save from one process, keeping everything."""
    store = CheckpointStore(root, Solo(), Retention(keep_last=99), disk=disk or quick_disk())
    return save_dealt(store, Solo(), step, state if state is not None else random_state(step), **metrics)


def read_whole(checkpoint: Checkpoint) -> State:
    """Every tensor of a checkpoint."""
    names = {short: dtype for dtype, short in DTYPES.items()}
    state = {}
    for name, tensor in checkpoint.manifest.tensors.items():
        array = np.zeros(tensor.shape, dtype=names[tensor.dtype])
        checkpoint.read_into(name, 0, tensor.elements, array)
        state[name] = array
    return state


def same(one: State, other: State) -> bool:
    """Whether two states have the same names, types, shapes and bytes."""
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape, one[name].tobytes())
        == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name in one
    )
