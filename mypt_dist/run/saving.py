"""When a run saves, whether it waits for it, and what a failure means to it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from mypt_dist.checkpoint import (
    BackgroundSaves,
    Cadence,
    CheckpointConfig,
    Dropped,
    Fence,
    NotAgreedError,
    Outcome,
    RunLock,
    Saved,
    Setup,
    Share,
    WriterProcess,
    best_interval_s,
    in_steps,
    marked,
    remedy,
)
from mypt_dist.errors import LockError, NumericError, SaveError
from mypt_dist.run.checkpointing import Checkpointing
from mypt_dist.run.config import RunConfig
from mypt_dist.run.record import RunRecord
from mypt_dist.training.state import TrainState
from mypt_dist.world import JSON, World

log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""Between two agreements while a run does nothing but wait for a save."""


class Saves(Protocol):
    """`mypt_dist.run.checkpointing.Checkpointing`: what is saved, and the way to save it at once."""

    @property
    def folder(self) -> Path: ...

    def share(self, state: TrainState, metrics: Mapping[str, float]) -> Share: ...

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> Path: ...

    def share_bytes(self) -> int: ...

    def roll_back(self, state: TrainState) -> TrainState: ...


class Record(Protocol):
    """`mypt_dist.run.record.RunRecord`: who hears of it."""

    def saved(self, state: TrainState, folder: Path) -> None: ...

    def measured(self, step: int, metrics: Mapping[str, float]) -> None: ...


@dataclass
class RunSaving:
    """Implements `mypt_dist.training.saving.Saving`. All that it decides, it decides from what all ranks know."""

    config: CheckpointConfig
    world: World
    saves: Saves
    record: Record
    cadence: Cadence
    background: BackgroundSaves | None
    """None: training stops for every save."""
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    """Of all saves of this process."""
    skipped: int = 0
    """Save points at which an earlier save was still being written."""
    _state: TrainState = field(default_factory=TrainState)
    """What is being saved, or was last."""
    _committed: tuple[int, Path] | None = None
    """Step and folder of the newest save that is safe."""
    _now: int = 0
    """The step that the loop is at."""
    _pace: tuple[int, float] | None = None
    """Step and moment from which on the speed of training is measured."""

    def due(self, state: TrainState) -> bool:
        self._now = state.step
        if self._pace is None:
            self._pace = (state.step, self.clock())
        return self.cadence.due(state.step, busy=self._busy)

    def vote(self) -> Sequence[float]:
        return self.background.vote() if self.background else (0.0, 0.0)

    def heard(self, sums: Sequence[float]) -> None:
        if self.background:
            self._note(self.background.heard(sums))

    def begin(self, state: TrainState, metrics: Mapping[str, float]) -> None:
        self._settle(self.config.wait_s)
        if self._busy:
            self._put_off(state)
            return
        self._state, self._now = state, state.step
        told = marked(metrics, ephemeral=self.cadence.is_ephemeral(state.step))
        self.cadence.begun(state.step)
        step_s = self._step_s()
        try:
            self._save(state, told, step_s)
        except NotAgreedError as error:
            self._failed(state.step, error)
        self._pace = (state.step, self.clock())

    def finish(self, state: TrainState, metrics: Mapping[str, float]) -> Path:
        self.settle()
        if self._committed is None or self._committed[0] != state.step:
            self._state = state
            self._save_at_once(state, metrics, self._step_s())
        assert self._committed is not None, "just saved"
        return self._committed[1]

    def roll_back(self, state: TrainState) -> TrainState:
        self.settle()
        self._state = self.saves.roll_back(state)
        self.cadence.went_back(self._state.step)
        # At once, and in the place of the one that was loaded: an interruption must not lead to the same samples again.
        self._save_at_once(self._state, {}, self._step_s())
        self._now, self._pace = self._state.step, (self._state.step, self.clock())
        return self._state

    def settle(self) -> None:
        """Wait until nothing is in flight. A collective; failures are told, not raised: the caller goes on."""
        self._settle(None)

    def close(self) -> None:
        """End the writer. What is in flight is lost: after an error nobody can agree on it any more."""
        if self.background:
            self.background.close()

    @property
    def _busy(self) -> bool:
        return self.background is not None and self.background.in_flight

    def _settle(self, wait_s: float | None) -> None:
        """Go on with the save in flight for at most so long by rank 0's clock; None: to its end, whatever that is."""
        begun = self.clock()
        while self.background and self.background.in_flight and (wait_s is None or wait_s > 0):
            self.background.wait(min(SETTLE_S, SETTLE_S if wait_s is None else wait_s))
            late = wait_s is not None and self.clock() - begun >= wait_s
            told = self.world.all_gather([*self.background.vote(), late])
            rows = [row for row in told if isinstance(row, list)]
            sums = [sum(float(str(row[slot])) for row in rows) for slot in (0, 1)]
            self._note(self.background.heard(sums), fatal=wait_s is not None)
            if rows[0][2]:
                return

    def _note(self, outcome: Outcome | None, *, fatal: bool = True) -> None:
        if isinstance(outcome, Saved):
            self._saved(self.saves.folder / outcome.name, outcome)
        elif isinstance(outcome, Dropped):
            self._failed(outcome.step, outcome.error, fatal=fatal)

    def _save(self, state: TrainState, metrics: Mapping[str, float], step_s: float) -> None:
        if self.background is not None:
            self.background.begin(self.saves.share(state, metrics), step_s)
            return
        try:
            self._save_at_once(state, metrics, step_s)
        except SaveError as error:
            # The store says what went wrong where.
            raise cast("NotAgreedError", error.__cause__) from None

    def _save_at_once(self, state: TrainState, metrics: Mapping[str, float], step_s: float) -> None:
        begun = self.clock()
        folder = self.saves.save(state, metrics)
        mine: JSON = [self.clock() - begun, step_s, self.saves.share_bytes()]
        told = cast("list[tuple[float, float, int]]", self.world.all_gather(mine))
        slowest, size = max(seconds for seconds, _, _ in told), sum(share for _, _, share in told)
        self._saved(folder, Saved(state.step, folder.name, size, slowest, slowest, told[0][1]))

    def _saved(self, folder: Path, saved: Saved) -> None:
        """The checkpoint of ``_state`` is safe."""
        self._committed = (saved.step, folder)
        self.cadence.saved()
        # The same numbers on all ranks, hence the same steps.
        best_s = best_interval_s(saved.stall_s, saved.duration_s, 3600 * self.config.mtbf_hours)
        self.cadence.adapt(in_steps(best_s, saved.step_s))
        self.record.measured(
            saved.step,
            {
                "checkpoint/last_committed_step": saved.step,
                "checkpoint/stall_ms": 1000 * saved.stall_s,
                "checkpoint/duration_s": saved.duration_s,
                "checkpoint/bytes": saved.bytes,
                "checkpoint/interval": self.cadence.interval,
            },
        )
        self.record.saved(self._state, folder)

    def _put_off(self, state: TrainState) -> None:
        self.skipped += 1
        self.cadence.put_off(state.step)
        self.record.measured(state.step, {"checkpoint/skipped": self.skipped})
        if self.world.rank == 0:
            log.warning(
                "step %d  the save of step %d is still being written: the next one follows it (%d put off so far)",
                state.step,
                self._state.step,
                self.skipped,
            )

    def _failed(self, step: int, error: NotAgreedError, *, fatal: bool = True) -> None:
        told = error.as_error(SaveError, f"the checkpoint of step {step} was not saved")
        if isinstance(told, LockError):
            raise told from error
        self.failures += 1
        again = self.cadence.failed(max(step, self._now))
        self.record.measured(step, {"checkpoint/failures": self.failures})
        count, most, advice = self.cadence.failures, self.config.max_failures, remedy(error.failures)
        if fatal and count >= most:
            # To the end of what is deleted of it.
            self.settle()
            raise SaveError(
                f"{told}. {count} in a row have failed (checkpoints.max_failures); the older ones are intact: "
                f"{advice}, then resume"
            ) from error
        if self.world.rank == 0:
            log.error(
                "%s. The older ones are intact, training goes on, the next try is at step %d (%d of %d failed): %s",
                told,
                again,
                count,
                most,
                advice,
            )

    def _step_s(self) -> float:
        """Seconds of a training step since the last save, on this rank."""
        since, moment = self._pace or (self._now - 1, self.clock())
        return (self.clock() - moment) / max(self._now - since, 1)


@contextmanager
def run_saving(
    config: RunConfig, checkpointing: Checkpointing, record: RunRecord, lock: RunLock, step: int
) -> Iterator[RunSaving]:
    """How the run that stands at ``step`` saves. The writer ends with the block."""
    every, world = config.train.save_every, checkpointing.engine
    saving = RunSaving(
        config=config.checkpoints,
        world=world,
        saves=checkpointing,
        record=record,
        cadence=Cadence(
            None if every == "auto" else every, last=step, ephemeral_every=config.checkpoints.ephemeral_every
        ),
        background=_background(config.checkpoints, world, checkpointing.folder, lock),
    )
    try:
        yield saving
    except NumericError:
        # All ranks are here, and what is in flight is from before the numbers went wrong.
        saving.settle()
        raise
    finally:
        saving.close()


def _background(config: CheckpointConfig, world: World, root: Path, lock: RunLock) -> BackgroundSaves | None:
    if not config.background:
        return None
    # Rank 0 holds the lock; a token is no secret.
    token = str(world.all_gather(lock.token)[0])
    setup = Setup(
        root=root,
        rank=world.rank,
        size=world.size,
        retention=config.retention,
        fence=Fence(folder=lock.folder, token=token),
    )
    return BackgroundSaves(world, WriterProcess(setup), timeout_s=config.timeout_s)
