"""Ranks that train, as far as saving goes, and what their journal would hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from background_doubles import InlineWriter, share, sums
from checkpoint_doubles import QuickFiles, quick_disk, random_state, save_dealt

from mypt_dist.checkpoint import (
    BackgroundSaves,
    Cadence,
    CheckpointConfig,
    CheckpointStore,
    Disk,
    Files,
    Retention,
    Share,
)
from mypt_dist.run.saving import RunSaving
from mypt_dist.training.state import TrainState
from mypt_dist.world import World


class Unsteady(QuickFiles):
    """Fails to make files while ``error`` is set."""

    def __init__(self) -> None:
        self.error: OSError | None = None

    def create(self, path: Path) -> int:
        if self.error:
            raise self.error
        return super().create(path)


@dataclass
class Saves:
    """A state of random numbers, another one at each step."""

    folder: Path
    world: World
    disk: Disk
    rules: Retention

    def share(self, state: TrainState, metrics: Mapping[str, float]) -> Share:
        return share(self.world, state.step, **metrics)

    def save(self, state: TrainState, metrics: Mapping[str, float]) -> Path:
        store = CheckpointStore(self.folder, self.world, self.rules, disk=self.disk)
        return save_dealt(store, self.world, state.step, random_state(state.step), **metrics)

    def share_bytes(self) -> int:
        return 5


@dataclass
class Record:
    """What the journal would hold."""

    steps: list[int] = field(default_factory=list)
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def saved(self, state: TrainState, folder: Path) -> None:
        assert (folder / "manifest.json").exists(), "only after the commit"
        self.steps.append(state.step)

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append((step, dict(metrics)))

    def of(self, name: str) -> list[tuple[int, float]]:
        return [(step, row[name]) for step, row in self.rows if name in row]


@dataclass
class Rank:
    """One rank's saving, its disk and its record."""

    saving: RunSaving
    record: Record
    files: Unsteady
    writer: InlineWriter

    def train(self, steps: int, first: int = 1) -> None:
        """The loop, as far as saving goes."""
        for step in range(first, first + steps):
            self.saving.heard(sums(self.saving.world, self.saving.vote()))
            state = TrainState(step)
            if self.saving.due(state):
                self.saving.begin(state, {})


def rank(root: Path, world: World, *, files: Files | None = None, every: int | None = 10, **config: Any) -> Rank:
    unsteady, record = Unsteady(), Record()
    disk = quick_disk(files or unsteady)
    settings = CheckpointConfig.model_validate({"keep_last": 99, **config})
    writer = InlineWriter(root, world, disk, settings.retention)
    background = BackgroundSaves(world, writer, timeout_s=60) if settings.background else None
    saving = RunSaving(
        settings,
        world,
        Saves(root, world, disk, settings.retention),
        record,
        Cadence(every, ephemeral_every=settings.ephemeral_every),
        background,
    )
    return Rank(saving, record, unsteady, writer)
