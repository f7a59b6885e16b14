"""How long a save in the background holds training up, against one copy of the state and against a blocking save.

    python -m benchmarks.async_save [--rounds 15] [--json PATH]

The state is that of a GPT of 124 M parameters in fp32 with the two moments of AdamW, 1.5 GB, on one process.

* background: everything that the training loop does for a save: the copy, orders and votes until it is committed
* copy: the same tensors copied with torch into tensors that are there already
* blocking: `CheckpointStore.save`

Every contestant runs in its own process, in turn within each round, after one save or copy as a warm-up; a figure is
the median of the ratios of the rounds. Needs 8 GB on the disk of the current folder and 8 GB of memory.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import torch

from benchmarks.checkpoint import describe, state
from benchmarks.race import Contestant, Ratio, Turns, markdown, parser, race, write_json
from mypt_dist.checkpoint import (
    BackgroundSaves,
    CheckpointStore,
    Retention,
    Saved,
    Segment,
    Setup,
    Share,
    WriterProcess,
)
from mypt_dist.engine import LocalTensor
from mypt_dist.run.checkpointing import copy_into
from mypt_dist.world import Solo

KEEP = Retention(keep_last=2, keep_best=None)
CONTESTANTS = ("background", "copy", "blocking")
TARGETS = {"copy": 2.0, "blocking": 0.25}
STEP_S = 0.01
"""Of the training that goes on meanwhile, and sleeps: what the writer takes from a real step is not measured here."""


def tensors() -> list[LocalTensor]:
    """The state, as an engine hands it out."""
    found = {name: torch.from_numpy(array) for name, array in state().items()}
    return [LocalTensor(name, tuple(tensor.shape), 0, tensor.view(-1)) for name, tensor in found.items()]


def segments(held: list[LocalTensor]) -> list[Segment]:
    """The same as the checkpoint's package wants it."""
    return [Segment(t.name, t.shape, "F32", 0, t.flat.numel(), partial(getattr, t.flat.numpy(), "data")) for t in held]


class Background:
    """Saves while training goes on."""

    def __init__(self, folder: Path) -> None:
        self.held = tensors()
        writer = WriterProcess(Setup(root=folder, rank=0, size=1, retention=KEEP))
        self.saves, self.step = BackgroundSaves(Solo(), writer, timeout_s=600), 0
        rest = {"files", "tensors", "sha256"}
        self.description = describe({}, {}).model_dump(mode="json", exclude=rest)

    def turn(self) -> float:
        """Seconds for which the loop was held up, by a save that is committed when this returns."""
        self.step += 1
        begin = time.perf_counter()
        self.saves.begin(
            Share(
                self.step,
                segments(self.held),
                lambda memory, offsets: copy_into(self.held, memory, offsets),
                {},
                {},
                {**self.description, "step": self.step},
            )
        )
        held_up, committed = time.perf_counter() - begin, False
        while self.saves.in_flight:
            time.sleep(STEP_S)
            begin = time.perf_counter()
            committed |= isinstance(self.saves.heard(self.saves.vote()), Saved)
            held_up += time.perf_counter() - begin
        assert committed
        return held_up


class Copy:
    """What no snapshot can be faster than."""

    def __init__(self, folder: Path) -> None:
        self.held = tensors()
        self.places = [torch.zeros_like(tensor.flat) for tensor in self.held]

    def turn(self) -> float:
        """Seconds of the copy."""
        begin = time.perf_counter()
        for place, tensor in zip(self.places, self.held, strict=True):
            place.copy_(tensor.flat)
        return time.perf_counter() - begin


class Blocking:
    """Training waits until the checkpoint is safe."""

    def __init__(self, folder: Path) -> None:
        self.held = tensors()
        self.store, self.step = CheckpointStore(folder, Solo(), KEEP), 0

    def turn(self) -> float:
        """Seconds of the save."""
        self.step += 1
        begin = time.perf_counter()
        self.store.save(
            self.step,
            segments(self.held),
            rank_state={},
            files={},
            describe=lambda files, found: describe(files, found).model_copy(update={"step": self.step}),
        )
        return time.perf_counter() - begin


def contest(name: str, folder: Path) -> None:
    """Be one contestant until told to end."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        kinds = {"background": Background, "copy": Copy, "blocking": Blocking}
        one = kinds[name](folder / name)
        one.turn()
        turns = Turns(out)
        again = turns.ready()
        while again:
            os.sync()
            again = turns.done(one.turn())
    if isinstance(one, Background):
        one.saves.close()


def main() -> None:
    """Run the rounds and print the table, or be one contestant."""
    options = parser("Time for which a background save holds training up.")
    options.add_argument("--contestant", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.contestant:
        contest(arguments.contestant, arguments.folder)
        return
    # Ended by a signal, 6 GB must not stay on the disk.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="async-save-benchmark-", dir=Path.cwd()) as folder:
        own = ("--folder", folder, "--contestant")
        racers = [Contestant.start(name, "benchmarks.async_save", *own, name) for name in CONTESTANTS]
        seconds = race(racers, arguments.rounds)
        for racer in racers:
            racer.finish()
    rows = []
    for other, target in TARGETS.items():
        ratio = Ratio.of(seconds["background"], seconds[other])
        medians = [f"{statistics.median(seconds[name]):.2f} s" for name in ("background", other)]
        rows.append([f"background / {other}", *medians, *ratio.cells(), f"≤ {target}"])
    print(markdown(["held up", "background", "other", "ratio", "quartiles", "extremes", "target"], rows))
    print(f"\nMedians of {arguments.rounds} rounds, {os.cpu_count()} cores.")
    write_json(arguments.json, seconds)


if __name__ == "__main__":
    main()
