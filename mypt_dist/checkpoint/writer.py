"""The process that writes a rank's checkpoints while the rank trains: ``python -m mypt_dist.checkpoint.writer``.

Started by `WriterProcess` with a `Setup` on standard input, then one order a line; answers are lines on standard
output. It loads no torch, and it ends with the rank that started it, at whatever moment that is: a commit by a
process whose rank is dead could meet the next run's.
"""

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

from mypt_dist import log as logs
from mypt_dist.checkpoint.agreement import FAILURES, done, failed
from mypt_dist.checkpoint.attempt import Commit as Committing
from mypt_dist.checkpoint.attempt import Extras, begin_attempt, plan_save, write_attempt
from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.host_buffer import SharedView
from mypt_dist.checkpoint.housekeeping import apply_retention, discard
from mypt_dist.checkpoint.layout import step_name
from mypt_dist.checkpoint.lock import is_held
from mypt_dist.checkpoint.manifest import Manifest
from mypt_dist.checkpoint.orders import Commit, Discard, Open, Order, Piece, Retire, Setup, Write, parse_order
from mypt_dist.checkpoint.segments import ITEM_BYTES, Segment
from mypt_dist.errors import LockError
from mypt_dist.lifeline import die_with_parent, leave_stopping_to_the_rank
from mypt_dist.world import JSON

log = logging.getLogger(__name__)

NICENESS = 10
"""Training comes first."""
THREADS = 2
"""Files written at once. One core hashes about 1.1 GB/s; each further one is taken from training."""


class Worker:
    """Does what the orders say. ``read`` gives the first so many bytes of the memory shared with the rank."""

    def __init__(self, setup: Setup, disk: Disk, read: Callable[[int], memoryview]) -> None:
        self._setup, self._disk, self._read = setup, disk, read

    def answer(self, order: Order) -> dict[str, JSON]:
        """Do it; what to tell all ranks of it."""
        try:
            return done(self._do(order))
        except FAILURES as error:
            return failed(error)

    def _do(self, order: Order) -> JSON:
        root = self._setup.root
        match order:
            case Open():
                self._check_fence()
                return begin_attempt(self._disk, root, order.step, order.bytes, order.files).name
            case Write():
                return self._write(order)
            case Commit():
                return self._commit(order)
            case Retire():
                self._check_fence()
                apply_retention(self._disk, root, self._setup.retention)
            case Discard():
                discard(self._disk, root / order.folder)
        return None

    def _write(self, order: Write) -> JSON:
        size = max((piece.offset + piece.length * ITEM_BYTES[piece.dtype] for piece in order.pieces), default=0)
        memory = self._read(size)
        segments = [_segment(piece, memory) for piece in order.pieces]
        extras = Extras(order.rank_state, {name: text.encode() for name, text in order.files.items()})
        plan = plan_save(order.step, segments, extras, self._setup, self._disk.part_bytes)
        return write_attempt(self._disk, self._setup.root / order.folder, plan).to_json()

    def _commit(self, order: Commit) -> JSON:
        root = self._setup.root

        def describe(files: object, tensors: object) -> Manifest:
            return Manifest.model_validate({**order.description, "files": files, "tensors": tensors})

        folder, target = root / order.folder, root / step_name(order.step)
        Committing(self._disk, folder, target, order.step, self._may_commit)(order.receipts, describe)
        return target.name

    def _may_commit(self) -> bool:
        fence = self._setup.fence
        return fence is None or is_held(self._disk, fence.folder, fence.token)

    def _check_fence(self) -> None:
        if not self._may_commit():
            raise LockError("another process has taken this run over")


def _segment(piece: Piece, memory: memoryview) -> Segment:
    end = piece.offset + piece.length * ITEM_BYTES[piece.dtype]
    return Segment(
        name=piece.name,
        shape=piece.shape,
        dtype=piece.dtype,
        start=piece.start,
        length=piece.length,
        data=lambda: memory[piece.offset : end],
    )


def die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` ends; end now if it has ended already."""
    if not die_with_parent(parent=parent):
        os._exit(1)


class Orders:
    """Lines of a pipe, read by a thread: when the pipe ends, so does the process, even in the middle of an order."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._idle = threading.Event()
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def next(self) -> bytes:
        """The next line; empty at the end."""
        self._idle.set()
        line = self._lines.get()
        self._idle.clear()
        return line

    def _listen(self) -> None:
        for line in self._pipe:
            self._lines.put(line)
        self._lines.put(b"")
        if not self._idle.wait(0.1):
            os._exit(1)


def main() -> None:
    """Answer orders until the rank hangs up."""
    # Not sys.stdin, which the interpreter wants to close at its end, while a thread still reads from it.
    pipe = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115 - a descriptor has no path
    first = pipe.readline()
    if not first:
        return
    setup = Setup.model_validate_json(first)
    die_with(setup.parent)
    # Whoever stops the rank may stop everything around it; what is being written is the rank's to decide about.
    leave_stopping_to_the_rank()
    os.nice(NICENESS)
    logs.install(setup.rank)
    logging.getLogger(logs.LOGGER).setLevel(logging.WARNING)
    disk = Disk(threads=min(THREADS, Disk().threads))
    worker = Worker(setup, disk, SharedView(setup.descriptor).read)
    orders = Orders(pipe)
    while line := orders.next():
        answer = worker.answer(parse_order(line))
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
