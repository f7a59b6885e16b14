"""Every call of a save, of a deletion and of a start fails with every error a disk has: nothing is lost."""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoint_doubles import QuickFiles, random_state, read_whole, run_ranks, same
from checkpoint_scenes import SAVED, SCENES, Scene, prepared, problems_afterwards, save, store
from counted import SOAK, count
from kill_points import WatchedFiles

from mypt_dist.checkpoint import CorruptError, Files, writing
from mypt_dist.errors import CheckpointError, SaveError
from mypt_dist.world import Solo, World

ERRNOS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENOMEM]
NAMES = [errno.errorcode[number] for number in ERRNOS]
CHANGES = frozenset({"make_folder", "create", "write", "sync", "sync_folder", "rename", "link", "unlink"})
NEVER = 1 << 30
SAVES = [scene for scene in SCENES if scene.size == 1 and scene.title.startswith("a save")]
FIRST = SAVES[0]


class FailingFiles(WatchedFiles, QuickFiles):
    """Call number ``at`` fails, and with ``lasting`` every later one like it. Notes what a failed fsync forbids."""

    def __init__(self, at: int = NEVER, number: int = 0, lasting: Callable[..., bool] = lambda *call: False) -> None:
        super().__init__()
        self.at, self.number, self.lasting = at, number, lasting
        self.failed: tuple[Any, ...] = ()
        self.unsafe: set[int] = set()
        """Files whose fsync failed: the system may have dropped their data and will not say so twice."""
        self.synced_again: list[int] = []

    def _call(self, name: str, method: Any, *args: Any) -> Any:
        number = len(self.calls)
        self.calls.append(name)
        file = os.fstat(args[0]).st_ino if name == "sync" else 0
        if file in self.unsafe:
            self.synced_again.append(file)
        if number == self.at or (self.failed and self.lasting(self.failed, (name, *args))):
            self.failed = self.failed or (name, *args)
            self.unsafe |= {file} - {0}
            if name == "close":
                method(*args)
            raise OSError(self.number, os.strerror(self.number))
        result = method(*args)
        if name == "create":
            # The number of a deleted file is used again.
            self.unsafe.discard(os.fstat(result).st_ino)
        return result


def any_change(failed: tuple[Any, ...], call: tuple[Any, ...]) -> bool:
    """As on a disk that stays full or was remounted read-only."""
    return failed[0] in CHANGES and call[0] in CHANGES


def same_place(failed: tuple[Any, ...], call: tuple[Any, ...]) -> bool:
    """As where one file can not be read, however often one tries."""
    by_path = isinstance(failed[1], Path)
    return call[0] == failed[0] and (not by_path or call[1] == failed[1])


def calls_of(scene: Scene, template: Path, memory: Path) -> int:
    root = shutil.copytree(template, memory / "counted")
    files = FailingFiles()
    scene.act(root, Solo(), files, lambda number: None)
    shutil.rmtree(root)
    return len(files.calls)


def strike(scene: Scene, root: Path, files: FailingFiles) -> list[str]:
    """What is wrong after a save some of whose calls failed. It ends well or in `SaveError`, with nothing else."""
    acknowledged = [scene.needed]
    try:
        scene.act(root, Solo(), files, acknowledged.append)
    except SaveError:
        assert acknowledged == [scene.needed]
    found = [f"synced again: {number}" for number in files.synced_again]
    return found + problems_afterwards(root, max(acknowledged), scene.corrupt)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scene", [scene for scene in SAVES if SOAK or not scene.long], ids=lambda scene: scene.title)
def test_any_error_at_any_call_of_a_save_loses_nothing(scene: Scene, memory: Path) -> None:
    template = prepared(scene, memory / "template")
    points, found = 0, []
    for at in range(calls_of(scene, template, memory)):
        for number in ERRNOS if SOAK or scene is FIRST else [ERRNOS[at % len(ERRNOS)]]:
            root = shutil.copytree(template, memory / "root")
            problems = strike(scene, root, FailingFiles(at, number))
            found += [f"{problem} [call {at}, {errno.errorcode[number]}]" for problem in problems]
            shutil.rmtree(root)
            points += 1
    count(
        f"{', '.join(NAMES)} at every call: {scene.title}",
        "SaveError (exit code 5) or a save that is safe; older checkpoints untouched; no file is synced twice",
        points=points,
        lost=len(found),
    )
    assert found == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_stays_full_or_read_only_from_any_call_on_loses_nothing(memory: Path, number: int) -> None:
    template = prepared(FIRST, memory / "template")
    points = calls_of(FIRST, template, memory)
    for at in range(points):
        root = shutil.copytree(template, memory / "root")
        assert strike(FIRST, root, FailingFiles(at, number, any_change)) == [], f"from call {at} on"
        shutil.rmtree(root)
    name = errno.errorcode[number]
    count(
        f"{name} from every call of a save on", "SaveError (exit code 5), older ones untouched", points=points, lost=0
    )


def start(root: Path, files: Files) -> str | None:
    """Find the newest checkpoint and read it; what was said if that could not be done."""
    try:
        newest = store(root, files=files).latest()
    except CheckpointError as error:
        return f"{type(error).__name__}: {error}"
    assert newest is not None
    with newest:
        assert same(read_whole(newest), random_state(SAVED))
    return None


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
def test_an_error_while_reading_is_waited_for_then_told_and_nothing_is_called_corrupt(
    memory: Path, lasting: bool
) -> None:
    template = prepared(FIRST, memory / "root")
    before = sorted(path.name for path in template.iterdir())
    counting = FailingFiles()
    found = store(template, files=counting).latest()
    assert found is not None
    found.close()
    used = stopped = 0
    for at in range(len(counting.calls)):
        for number in ERRNOS:
            files = FailingFiles(at, number, same_place if lasting else lambda *call: False)
            told = start(template, files)
            used, stopped = used + (told is None), stopped + (told is not None)
            assert told is None or "can not be read right now, it may be intact" in told
            assert sorted(path.name for path in template.iterdir()) == before
    count(
        f"{', '.join(NAMES)} {'for good' if lasting else 'once'} at every call of a start",
        "tried again for some seconds, then exit code 6; never called corrupt, never passed over",
        points=used + stopped,
        passed_over=0,
    )
    assert (stopped > 0) is lasting


def test_if_an_unreadable_one_were_called_corrupt_good_steps_would_be_lost(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rashly(disk: Any, what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            raise CorruptError(what, [str(error)]) from None

    monkeypatch.setattr("mypt_dist.checkpoint.store.patiently", rashly)
    root = prepared(FIRST, memory / "root")
    for at in range(10):
        with suppress(CheckpointError):
            store(root, files=FailingFiles(at, errno.EIO)).latest()
    assert (root / "step-00000002.corrupt").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_at_any_call_of_any_rank_is_told_on_all(memory: Path, rank: int) -> None:
    scene = next(scene for scene in SCENES if scene.size == 2)
    template = prepared(scene, memory / "template")

    def act(root: Path, files: list[FailingFiles], world: World) -> None:
        save(store(root, world, files[world.rank]), world, 3, SAVED + 1)

    counting = [FailingFiles(), FailingFiles()]
    run_ranks(2, partial(act, shutil.copytree(template, memory / "counted"), counting))
    points = len(counting[rank].calls)
    for at in range(points):
        root = shutil.copytree(template, memory / "root")
        files = [FailingFiles(at if r == rank else NEVER, ERRNOS[at % len(ERRNOS)]) for r in range(2)]
        outcomes = run_ranks(2, partial(act, root, files))
        assert [type(outcome) for outcome in outcomes] in ([SaveError] * 2, [type(None)] * 2), outcomes
        acknowledged = SAVED + (outcomes == [None, None])
        assert problems_afterwards(root, acknowledged) == [], f"call {at}"
        shutil.rmtree(root)
    count(f"an error at every call of rank {rank} of two", "all ranks raise the same SaveError", points=points, lost=0)


def test_a_save_that_synced_again_after_an_error_would_be_noticed(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What many programs do: try fsync again, and be told that all is well."""
    original = writing._write

    def stubborn(disk: Any, folder: Path, job: Any) -> Any:
        sync = disk.files.sync

        class Again:
            def __getattr__(self, name: str) -> Any:
                return getattr(disk.files, name)

            def sync(self, descriptor: int) -> None:
                try:
                    sync(descriptor)
                except OSError:
                    sync(descriptor)

        return original(replace(disk, files=Again()), folder, job)

    monkeypatch.setattr(writing, "_write", stubborn)
    template = prepared(FIRST, memory / "template")
    noticed = []
    for at in range(40):
        root = shutil.copytree(template, memory / "root")
        noticed += strike(FIRST, root, FailingFiles(at, errno.EIO))
        shutil.rmtree(root)
    assert any(problem.startswith("synced again") for problem in noticed)
