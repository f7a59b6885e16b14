"""Every file-system call of a save fails once, with the errors that disks give: nothing is lost, training goes on."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoint_doubles import (
    Died,
    FaultyFiles,
    QuickFiles,
    on_ranks,
    quick_disk,
    random_state,
    read_whole,
    same,
    save_alone,
)
from counted import SOAK, count
from run_saving_doubles import rank

from mypt_dist.checkpoint import CheckpointStore, Files
from mypt_dist.world import Solo, World

NEVER = 1 << 30
ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENOMEM)
RULES = {"keep_last": 2, "keep_best": None}


@dataclass(frozen=True)
class Ended:
    """What became of a run in which one call of one save failed."""

    acknowledged: tuple[int, ...]
    """Steps of the checkpoints that were told of, by rank."""
    failures: int
    calls: int
    """Of the rank whose disk failed, in that save."""


def train(root: Path, world: World, files: Files, *, background: bool) -> Ended:
    """Save at step 10 with the bad disk, and go on until a later save is safe."""
    one = rank(root, world, files=files, background=background, **RULES)
    one.train(18)
    calls = len(files.calls) if isinstance(files, FaultyFiles) else 0
    one.train(6, first=19)
    one.saving.settle()
    one.saving.close()
    return Ended(tuple(one.record.steps), one.saving.failures, calls)


@pytest.fixture
def memory() -> Iterator[Path]:
    """Thousands of files are made here."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def faults(calls: int) -> Iterator[tuple[int, OSError]]:
    """Every call with every error; without a soak every call with one, in turn."""
    for at in range(calls):
        for number in ERRNOS if SOAK else [ERRNOS[at % len(ERRNOS)]]:
            yield at, OSError(number, os.strerror(number))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, so that retention has something to delete."""
    root = tmp_path_factory.mktemp("before") / "root"
    root.mkdir()
    for step in (1, 2):
        save_alone(root, step)
    return root


def with_one_fault(root: Path, size: int, broken: int, files: Files, background: bool) -> list[Ended]:
    return on_ranks(
        size, lambda world: train(root, world, files if world.rank == broken else QuickFiles(), background=background)
    )


def newest(root: Path) -> int:
    found = CheckpointStore(root, Solo(), disk=quick_disk()).latest()
    assert found is not None
    assert same(read_whole(found), random_state(found.manifest.step))
    found.close()
    return found.manifest.step


@pytest.mark.parametrize("background", [True, False], ids=["background", "blocking"])
@pytest.mark.parametrize(("size", "broken"), [(1, 0), (2, 0), (2, 1)], ids=["alone", "rank 0 of 2", "rank 1 of 2"])
def test_an_error_at_any_call_of_a_save_loses_nothing_and_training_goes_on(
    before: Path, memory: Path, size: int, broken: int, background: bool
) -> None:
    counter = FaultyFiles(NEVER, OSError())
    calls = with_one_fault(shutil.copytree(before, memory / "counted"), size, broken, counter, background)[broken].calls
    # Rank 1 only writes its own files; a save of rank 0 opens, writes, commits and deletes.
    assert calls > (40 if broken == 0 else 10)
    points = failed = 0
    for at, error in faults(calls):
        root = shutil.copytree(before, memory / "root")
        ended = with_one_fault(root, size, broken, FaultyFiles(at, error), background)
        points += 1
        failed += ended[0].failures
        assert len({(one.acknowledged, one.failures) for one in ended}) == 1, "all ranks know the same"
        assert ended[0].failures <= 1, "one fault, one failed save: the next one succeeds"
        assert ended[0].acknowledged[-1] == 20, "training never stopped saving"
        assert newest(root) == 20
        assert all("partial" not in path.name and "trash" not in path.name for path in root.iterdir())
        shutil.rmtree(root)
    assert failed > points / 6, "many calls of a save matter"
    kind = "background" if background else "blocking"
    where = "one rank" if size == 1 else f"rank {broken} of {size}"
    count(
        f"an error at every call of a {kind} save, {where}",
        "old checkpoints intact, attempt removed, training goes on, a later save is committed",
        points=points,
        saves_failed=failed,
        lost=0,
        runs_ended=0,
    )


def test_a_save_that_fails_is_never_acknowledged(before: Path, memory: Path) -> None:
    """Looked at when the fault has just happened, before anything later can make up for it."""
    lost = points = 0
    counter = FaultyFiles(NEVER, OSError())
    calls = with_one_fault(shutil.copytree(before, memory / "counted"), 1, 0, counter, True)[0].calls
    for at, error in faults(calls):
        root = shutil.copytree(before, memory / "root")
        one = rank(root, Solo(), files=FaultyFiles(at, error), **RULES)
        one.train(10)
        one.saving.settle()
        found = newest(root)
        acknowledged = one.record.steps == [10]
        assert acknowledged or one.saving.failures == 1
        lost += found != 10 if acknowledged else found not in (2, 10)
        points += 1
        shutil.rmtree(root)
    assert lost == 0
    count(
        "an error at every call of a save, then the newest checkpoint is read",
        "the acknowledged one, else the one before",
        points=points,
        lost=lost,
    )


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_writer_killed_at_any_call_of_a_save_loses_nothing_and_training_goes_on(
    before: Path, memory: Path, after: bool
) -> None:
    counter = FaultyFiles(NEVER, OSError())
    calls = with_one_fault(shutil.copytree(before, memory / "counted"), 1, 0, counter, True)[0].calls
    failed = 0
    for at in range(calls):
        root = shutil.copytree(before, memory / "root")
        (ended,) = with_one_fault(root, 1, 0, FaultyFiles(at, Died(), after=after), True)
        failed += ended.failures
        assert ended.failures <= 1
        assert ended.acknowledged[-1] == newest(root) == 20
        assert {path.name.partition("-")[0] for path in root.iterdir()} == {"step"}
        assert all(path.suffix == "" for path in root.iterdir())
        shutil.rmtree(root)
    assert failed > calls / 3
    count(
        f"a writer killed {'after' if after else 'before'} every call of a background save",
        "old checkpoints intact, attempt removed, training goes on, a later save is committed",
        points=calls,
        saves_failed=failed,
        lost=0,
        runs_ended=0,
    )


def test_a_save_acknowledged_before_its_commit_would_be_lost(before: Path, memory: Path) -> None:
    """The twin: told of when all have written, a checkpoint may never come to be."""
    root = shutil.copytree(before, memory / "root")
    one = rank(root, Solo(), files=FaultyFiles(0, OSError(errno.EIO, ""), only="rename"), **RULES)
    one.train(10)
    too_early = []
    while one.saving.background is not None and one.saving.background.in_flight:
        if one.writer.orders[-1] == "commit":
            too_early.append(10)
        one.saving.heard(one.saving.vote())
    assert too_early == [10]
    assert newest(root) == 2
