"""The manifest says under which holding of the run lock a checkpoint was written, and no other can write one."""

from pathlib import Path
from typing import Any

import pytest
from checkpoint_doubles import quick_disk, random_state, save_dealt
from counted import count

from mypt_dist.checkpoint import CheckpointStore, Retention, RunLock
from mypt_dist.errors import LockError
from mypt_dist.world import Solo


def save(root: Path, lock: RunLock, step: int, may_commit: Any = None) -> None:
    store = CheckpointStore(
        root, Solo(), Retention(keep_last=9), may_commit=may_commit or lock.still_mine, disk=quick_disk()
    )
    save_dealt(store, Solo(), step, random_state(step))


def take_over(folder: Path, loser: RunLock) -> RunLock:
    """As another machine does when the lock was not renewed for long enough."""
    (folder / "run.lock").rename(folder / "run.lock.aside")
    winner = RunLock(folder)
    winner.acquire()
    assert not loser.still_mine()
    return winner


@pytest.fixture
def locks(tmp_path: Path) -> Any:
    """A run that was taken over while it slept, and the one that took it over."""
    loser = RunLock(tmp_path)
    loser.acquire()
    save(tmp_path / "checkpoints", loser, 1)
    winner = take_over(tmp_path, loser)
    yield loser, winner
    winner.release()
    loser.release()


def test_a_run_that_was_taken_over_commits_nothing_more(tmp_path: Path, locks: Any) -> None:
    loser, winner = locks
    root = tmp_path / "checkpoints"
    save(root, winner, 2)
    with pytest.raises(LockError, match="another process has taken this run over"):
        save(root, loser, 3)
    assert sorted(path.name for path in root.iterdir()) == ["step-00000001", "step-00000002"]
    count("a run that wakes up after another took its folder over", "refused: exit code 8", commits_of_the_loser=0)


def test_without_asking_the_lock_it_would_commit(tmp_path: Path, locks: Any) -> None:
    loser, winner = locks
    root = tmp_path / "checkpoints"
    save(root, winner, 2)
    save(root, loser, 3, may_commit=lambda: True)
    assert (root / "step-00000003").exists()
