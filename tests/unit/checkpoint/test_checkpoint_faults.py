"""A save fails, or dies, or the power is cut, at each of its file-system calls: nothing saved before is lost."""

import os
import random
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from checkpoint_doubles import Died, FaultyFiles, QuickFiles, State, quick_disk, read_whole, run_ranks, same, save_dealt

from mypt_dist.checkpoint import CheckpointStore, Files, Retention
from mypt_dist.errors import LostPeerError, MyptError, SaveError
from mypt_dist.world import Solo, World

NEVER = 1 << 30
RULES = Retention(keep_last=2, keep_best=None)
KEEP_ALL = Retention(keep_last=99)
"""No deletion afterwards, which waits for the disk as well."""
ERRORS = [OSError(number, os.strerror(number)) for number in (28, 5, 122, 30, 24, 12)]
"""Disk full, input/output error, quota, read-only, too many open files, out of memory."""


def state(step: int) -> State:
    return {"model/a": np.full(5, step, dtype=np.float32), "optimizer/m/a": np.full(5, -step, dtype=np.float32)}


def save(root: Path, step: int, world: World, files: Files, version: int = 0, *, rules: Retention = RULES) -> None:
    save_dealt(CheckpointStore(root, world, rules, disk=quick_disk(files)), world, step, state(step + version))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, as found when a save of step 3 begins, with which retention has something to delete."""
    root = tmp_path_factory.mktemp("before")
    for step in (1, 2):
        save(root, step, Solo(), QuickFiles())
    return root


def save_with(root: Path, files: list[Files], world: World) -> None:
    """Save step 3 with another disk for each rank."""
    save(root, 3, world, files[world.rank], version=10)


def check_nothing_is_lost(root: Path, step: int, allowed: list[State]) -> None:
    """The newest valid checkpoint is one of those ``allowed``, and saving goes on from here."""
    found = CheckpointStore(root, Solo(), RULES, disk=quick_disk()).latest()
    assert found is not None
    assert any(same(read_whole(found), one) for one in allowed)
    found.close()
    assert not [path.name for path in root.iterdir() if ".corrupt" in path.name]
    save(root, step + 1, Solo(), QuickFiles())
    after = CheckpointStore(root, Solo(), RULES, disk=quick_disk()).latest()
    assert after is not None
    assert same(read_whole(after), state(step + 1))
    after.close()
    assert all(path.name in {f"step-{n:08d}" for n in range(1, step + 2)} for path in root.iterdir())


def calls_of_a_save(before: Path, folder: Path, step: int, size: int = 1) -> list[int]:
    """How many calls each rank makes."""
    root = shutil.copytree(before, folder / "counted")
    counters = [FaultyFiles(NEVER, OSError()) for _ in range(size)]
    run_ranks(size, lambda world: save(root, step, world, counters[world.rank], version=10))
    return [len(counter.calls) for counter in counters]


@pytest.mark.parametrize("step", [3, 2], ids=["a new step", "a step saved before"])
@pytest.mark.parametrize("error", [ERRORS[0], Died()], ids=["ENOSPC", "killed"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_fault_at_any_call_loses_nothing(
    before: Path, memory: Path, step: int, error: BaseException, after: bool
) -> None:
    (calls,) = calls_of_a_save(before, memory, step)
    assert calls > 40
    for at in range(calls):
        root = shutil.copytree(before, memory / "root")
        allowed = [state(step + 10)]
        try:
            save(root, step, Solo(), FaultyFiles(at, error, after=after), version=10)
        except (SaveError, Died):
            allowed.append(state(2))
        check_nothing_is_lost(root, 3, allowed)
        shutil.rmtree(root)


def test_other_errors_at_any_call_lose_nothing(before: Path, memory: Path) -> None:
    (calls,) = calls_of_a_save(before, memory, 3)
    for at in range(calls):
        root = shutil.copytree(before, memory / "root")
        allowed = [state(13)]
        try:
            save(root, 3, Solo(), FaultyFiles(at, ERRORS[1 + at % 5]), version=10)
        except SaveError:
            allowed.append(state(2))
        check_nothing_is_lost(root, 3, allowed)
        shutil.rmtree(root)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("error", [ERRORS[0], Died()], ids=["ENOSPC", "killed"])
def test_a_fault_at_any_call_of_any_rank_loses_nothing_and_no_rank_believes_otherwise(
    before: Path, memory: Path, rank: int, error: BaseException
) -> None:
    calls = calls_of_a_save(before, memory, 3, size=2)[rank]
    for at in range(calls):
        root = shutil.copytree(before, memory / "root")
        faulty = [FaultyFiles(at, error) if r == rank else QuickFiles() for r in range(2)]
        outcomes = run_ranks(2, partial(save_with, root, faulty))
        told = [outcome for outcome in outcomes if isinstance(outcome, MyptError)]
        if isinstance(error, Died):
            assert isinstance(outcomes[1 - rank], LostPeerError | None)
        else:
            assert len(told) in (0, 2)
        check_nothing_is_lost(root, 3, [state(13), *([state(2)] if None not in outcomes else [])])
        shutil.rmtree(root)


def test_a_file_whose_fsync_failed_is_never_synced_again(before: Path, memory: Path) -> None:
    class Failing(QuickFiles):
        def __init__(self) -> None:
            self.synced: list[int] = []

        def sync(self, descriptor: int) -> None:
            self.synced.append(os.fstat(descriptor).st_ino)
            raise OSError(5, "Input/output error")

    files = Failing()
    with pytest.raises(SaveError):
        save(memory / "root", 1, Solo(), files)
    assert len(files.synced) == 1


@dataclass
class Change:
    """A change of a folder's entries that the disk may not have yet."""

    path: Path
    """Where the entry is now: it moves with the folders above it."""
    came_from: Path | None = None
    content: bytes | None = None

    def undo(self, earlier: "list[Change]") -> None:
        if self.came_from:
            self.path.rename(self.came_from)
            move(earlier, self.path, self.came_from)
        elif self.content is not None:
            self.path.write_bytes(self.content)
        elif self.path.is_dir():
            shutil.rmtree(self.path)
        elif self.path.exists():
            self.path.unlink()
        else:
            self.path.mkdir()


def move(changes: list[Change], old: Path, new: Path) -> None:
    for change in changes:
        if change.path.is_relative_to(old):
            change.path = new / change.path.relative_to(old)


@dataclass
class PowerCut(QuickFiles):
    """Ends the process at call ``at``; `happen` then takes from the disk what nobody waited for."""

    at: int
    without: frozenset[str] = frozenset()
    count: int = 0
    pending: list[Change] = field(default_factory=list)
    unsynced: set[int] = field(default_factory=set)

    def create(self, path: Path) -> int:
        self._tick()
        descriptor = super().create(path)
        self.unsynced.add(os.fstat(descriptor).st_ino)
        self.pending.append(Change(path))
        return descriptor

    def sync(self, descriptor: int) -> None:
        self._tick()
        if "sync" not in self.without:
            self.unsynced.remove(os.fstat(descriptor).st_ino)

    def make_folder(self, path: Path) -> None:
        self._tick()
        super().make_folder(path)
        self.pending.append(Change(path))

    def sync_folder(self, path: Path) -> None:
        self._tick()
        kind = "root" if path.name == "root" else "attempt" if path.name.startswith("step") else "inner"
        if kind not in self.without:
            self.pending = [change for change in self.pending if change.path.parent != path]

    def rename(self, old: Path, new: Path) -> None:
        self._tick()
        super().rename(old, new)
        move(self.pending, old, new)
        self.pending.append(Change(new, came_from=old))

    def unlink(self, path: Path) -> None:
        self._tick()
        content = path.read_bytes()
        super().unlink(path)
        self.pending.append(Change(path, content=content))

    def remove_folder(self, path: Path) -> None:
        self._tick()
        super().remove_folder(path)
        self.pending.append(Change(path))

    def happen(self, root: Path, entries_kept: int, dice: random.Random) -> None:
        """All entries but the first ``entries_kept`` were not on the disk yet; nor, perhaps, content not waited for."""
        for path in root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.unsynced and dice.random() < 0.7:
                os.truncate(path, 0)
        while len(self.pending) > entries_kept:
            self.pending.pop().undo(self.pending)

    def _tick(self) -> None:
        self.count += 1
        if self.count > self.at:
            raise Died


@dataclass(frozen=True)
class Outcome:
    """What the next start finds after a power cut, and whether the save had been acknowledged."""

    acknowledged: bool
    is_old: bool
    is_new: bool
    corrupt: bool

    @property
    def lost(self) -> bool:
        return not (self.is_new or (self.is_old and not self.acknowledged)) or self.corrupt


def power_cuts(
    before: Path, memory: Path, step: int, rules: Retention, without: frozenset[str] = frozenset()
) -> list[Outcome]:
    """Cut the power at every call of a save, and after it, in several ways."""
    dice = random.Random(step)
    outcomes: list[Outcome] = []
    for at in range(200):
        for _ in range(4):
            root = shutil.copytree(before, memory / "root")
            files = PowerCut(at, without)
            acknowledged = False
            with suppress(Died):
                save(root, step, Solo(), files, version=10, rules=rules)
                acknowledged = True
            files.happen(root, dice.randint(0, len(files.pending)), dice)
            outcomes.append(outcome(root, step, acknowledged))
            shutil.rmtree(root)
        if files.count <= at:
            break
    return outcomes


def outcome(root: Path, step: int, acknowledged: bool) -> Outcome:
    found = CheckpointStore(root, Solo(), RULES, disk=quick_disk()).latest()
    assert found is not None
    read = read_whole(found)
    corrupt = any(".corrupt" in path.name for path in root.iterdir())
    return Outcome(acknowledged, same(read, state(2)), same(read, state(step + 10)), corrupt)


@pytest.mark.parametrize("step", [3, 2], ids=["a new step", "a step saved before"])
@pytest.mark.parametrize("rules", [RULES, KEEP_ALL], ids=["keep two", "keep all"])
def test_a_power_cut_at_any_call_loses_nothing(before: Path, memory: Path, step: int, rules: Retention) -> None:
    outcomes = power_cuts(before, memory, step, rules)
    assert [number for number, one in enumerate(outcomes) if one.lost] == []
    assert {one.acknowledged for one in outcomes} == {False, True}


@pytest.mark.parametrize("safeguard", ["sync", "inner", "attempt", "root"])
def test_without_waiting_for_the_disk_a_power_cut_does_lose(before: Path, memory: Path, safeguard: str) -> None:
    """The simulated disk is strict enough to notice each kind of wait that is left out."""
    assert any(one.lost for one in power_cuts(before, memory, 3, KEEP_ALL, frozenset({safeguard})))
