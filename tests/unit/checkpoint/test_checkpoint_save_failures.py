"""A save that can not succeed says so on every rank and leaves nothing but what was there before."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_doubles import (
    QuickFiles,
    dealt,
    describer,
    piece,
    quick_disk,
    random_state,
    read_whole,
    run_ranks,
    same,
    save_alone,
    save_dealt,
)

from mypt_dist.checkpoint import CheckpointStore, Disk, Segment
from mypt_dist.errors import LockError, LostPeerError, SaveError
from mypt_dist.world import Solo, World


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def failing_segments(state: Any, error: Exception) -> Iterator[Segment]:
    def fail() -> bytes:
        raise error

    yield from dealt(state, 1, 3)
    yield Segment("model/bad", (1,), "F32", 0, 1, fail)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), OSError(28, "No space left on device"), MemoryError()]
)
def test_a_failure_on_one_rank_is_told_on_all_and_leaves_the_older_checkpoint(tmp_path: Path, error: Exception) -> None:
    save_alone(tmp_path, 1)

    def run(world: World) -> None:
        store = CheckpointStore(tmp_path, world, disk=quick_disk())
        mine = failing_segments(random_state(), error) if world.rank == 1 else dealt(random_state(), world.rank, 3)
        store.save(2, mine, rank_state={}, files={}, describe=describer(2))

    outcomes = run_ranks(3, run)
    for outcome in outcomes:
        assert isinstance(outcome, SaveError)
        reason = getattr(error, "strerror", None) or str(error) or "MemoryError"
        assert f"the checkpoint of step 2 was not saved: rank 1: {reason}" in str(outcome).replace("[Errno 28] ", "")
    assert names(tmp_path) == ["step-00000001"]
    found = CheckpointStore(tmp_path, Solo(), disk=quick_disk()).latest()
    assert found is not None
    assert same(read_whole(found), random_state(1))


def save_with(tmp_path: Path, size: int, **changes: Any) -> list[Any]:
    """Save step 2 from ``size`` ranks; ``changes`` are functions of the rank."""

    def run(world: World) -> Any:
        given = {name: change(world.rank) for name, change in changes.items()}
        store = CheckpointStore(tmp_path, world, disk=quick_disk())
        state = {"model/a": np.arange(6, dtype=np.float32)}
        arguments = {
            "segments": dealt(state, world.rank, size),
            "rank_state": {},
            "files": {},
            "describe": describer(2),
        }
        return store.save(given.pop("step", 2), **{**arguments, **given})

    return run_ranks(size, run)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step": lambda rank: 2 + rank}, "the ranks are at different steps"),
        ({"files": lambda rank: {"x": b""} if rank else {}}, "rank 1: only rank 0 adds files"),
        ({"files": lambda rank: {} if rank else {"../x": b""}}, "'../x' is no name for a file"),
        ({"files": lambda rank: {} if rank else {"manifest.json": b""}}, "'manifest.json' is no name for a file"),
        ({"files": lambda rank: {} if rank else {"weights": b""}}, "'weights' is no name for a file"),
        ({"rank_state": lambda rank: {"x": float("nan")} if rank else {}}, "rank 1: Out of range float"),
        ({"describe": lambda rank: describer(3)}, "does not describe what was written"),
        ({"describe": lambda rank: describer(2, {"loss": float("nan")})}, "finite number"),
        (
            {"segments": lambda rank: [] if rank else list(dealt({"model/a": np.zeros(6)}, 0, 2))},
            "rank 0: tensor model/a: 3 elements are held",
        ),
        (
            {"segments": lambda rank: [piece("model/a", np.zeros(6), 0, 6)]},
            "tensor model/a: elements 0 to 6 are held twice",
        ),
        (
            {"segments": lambda rank: dealt({"model/a": np.zeros(6 + rank)}, rank, 2)},
            r"is F64 \(6,\) and also F64 \(7,\)",
        ),
        ({"segments": lambda rank: dealt({"model/a": np.zeros(6, "bool" if rank else "uint8")}, rank, 2)}, "U8.*BOOL"),
    ],
)
def test_what_does_not_fit_together_is_refused_on_all_ranks(tmp_path: Path, change: Any, reason: str) -> None:
    for outcome in save_with(tmp_path, 2, **change):
        assert isinstance(outcome, SaveError)
        with pytest.raises(SaveError, match=reason):
            raise outcome
    assert names(tmp_path) == []


def test_a_rank_that_dies_while_saving_leaves_no_checkpoint_and_is_noticed(tmp_path: Path) -> None:
    def run(world: World) -> None:
        if world.rank == 1:
            raise KeyboardInterrupt
        save_dealt(CheckpointStore(tmp_path, world, disk=quick_disk()), world, 2, random_state())

    outcomes = run_ranks(3, run)
    assert [type(outcome) for outcome in outcomes] == [LostPeerError, KeyboardInterrupt, LostPeerError]
    assert CheckpointStore(tmp_path, Solo(), disk=quick_disk()).latest() is None


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    class Full(QuickFiles):
        def free_bytes(self, path: Path) -> int:
            return 1000

    with pytest.raises(SaveError, match=r"has 1,000 bytes free, 1,\d\d\d are needed"):
        save_alone(tmp_path, 1, disk=quick_disk(Full()))
    assert names(tmp_path) == []


def test_the_space_needed_is_that_of_all_ranks(tmp_path: Path) -> None:
    class Small(QuickFiles):
        def free_bytes(self, path: Path) -> int:
            return 3000

    state = {"model/a": np.zeros(1000, dtype=np.float32)}

    def run(world: World) -> None:
        save_dealt(CheckpointStore(tmp_path, world, disk=quick_disk(Small())), world, 1, state)

    assert all(isinstance(outcome, SaveError) for outcome in run_ranks(4, run))
    assert names(tmp_path) == []


def test_a_file_cut_short_behind_our_back_is_noticed_before_the_commit(tmp_path: Path) -> None:
    class Cutting(QuickFiles):
        def sync_folder(self, path: Path) -> None:
            if path.name == "weights":
                os.truncate(path / "rank-00000-of-00001.safetensors", 10)

    with pytest.raises(SaveError, match=r"rank-00000-of-00001\.safetensors has 10 bytes, \d+ were written"):
        save_alone(tmp_path, 1, disk=quick_disk(Cutting()))
    assert names(tmp_path) == []


def test_leftovers_of_saves_that_died_are_deleted_by_the_next_save(tmp_path: Path) -> None:
    for name in ("step-00000001.partial-abc", ".trash-step-00000001-abc"):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / "weights" / "file").write_bytes(b"1")
        (tmp_path / name / "link").symlink_to(tmp_path)
    (tmp_path / "mine.txt").write_text("keep")
    save_alone(tmp_path, 2)
    assert names(tmp_path) == ["mine.txt", "step-00000002"]


def test_the_space_of_saves_that_died_is_free_again_before_the_next_needs_it(tmp_path: Path) -> None:
    class Tight(QuickFiles):
        def free_bytes(self, path: Path) -> int:
            return 0 if any(".partial" in name for name in self.names(path)) else 1 << 20

    (tmp_path / "step-00000001.partial-abc").mkdir()
    save_alone(tmp_path, 2, disk=quick_disk(Tight()))
    assert names(tmp_path) == ["step-00000002"]


def test_an_attempt_that_can_not_even_begin_leaves_nothing(tmp_path: Path) -> None:
    class NoInodes(QuickFiles):
        def make_folder(self, path: Path) -> None:
            if path.name == "rank-state":
                raise OSError(28, "No space left on device")
            super().make_folder(path)

    with pytest.raises(SaveError, match="No space left"):
        save_alone(tmp_path, 1, disk=quick_disk(NoInodes()))
    assert names(tmp_path) == []


def test_of_a_folder_that_is_deleted_the_manifest_goes_first(tmp_path: Path) -> None:
    removed: list[str] = []

    class Watching(QuickFiles):
        def unlink(self, path: Path) -> None:
            removed.append(path.name)
            super().unlink(path)

    for name in ("b", "a", "manifest.json", "z"):
        (tmp_path / "old" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "old" / name).write_text("")
    quick_disk(Watching()).remove_tree(tmp_path / "old", first="manifest.json")
    assert removed == ["manifest.json", "a", "b", "z"]


def test_an_attempt_that_resists_deletion_does_not_hide_why_the_save_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(QuickFiles):
        def unlink(self, path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        def write(self, descriptor: int, data: memoryview) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(SaveError, match="No space left"):
        save_alone(tmp_path, 1, disk=quick_disk(Stubborn()))
    assert "is left over and can be deleted" in caplog.text


def test_of_several_threads_that_write_the_failure_of_one_is_told(tmp_path: Path) -> None:
    disk = Disk(files=QuickFiles(), threads=3, part_bytes=1)
    with pytest.raises(SaveError, match="rank 0: broken"):
        CheckpointStore(tmp_path, Solo(), disk=disk).save(
            1, failing_segments(random_state(), RuntimeError("broken")), rank_state={}, files={}, describe=describer(1)
        )
    assert names(tmp_path) == []


def test_a_run_that_lost_its_lock_neither_saves_nor_sets_aside(tmp_path: Path) -> None:
    folder = save_alone(tmp_path, 1)
    answers = iter([True, False])

    def run(world: World) -> None:
        store = CheckpointStore(tmp_path, world, may_commit=lambda: next(answers), disk=quick_disk())
        save_dealt(store, world, 2, random_state())

    outcomes = run_ranks(2, run)
    assert [str(outcome) for outcome in outcomes if isinstance(outcome, LockError)] == [
        "the checkpoint of step 2 was not saved: rank 0: another process has taken this run over"
    ] * 2
    assert names(tmp_path) == ["step-00000001"]

    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(LockError):
        CheckpointStore(tmp_path, Solo(), may_commit=lambda: False, disk=quick_disk()).latest()
    with pytest.raises(LockError):
        save_dealt(CheckpointStore(tmp_path, Solo(), may_commit=lambda: False, disk=quick_disk()), Solo(), 2, {})
    assert names(tmp_path) == ["step-00000001"]


def test_an_attempt_never_writes_into_the_folder_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should two attempts ever get one name, the second is refused: what the first one wrote stays as it is."""
    monkeypatch.setattr("mypt_dist.checkpoint.attempt.secrets.token_hex", lambda size: "0a")
    other = tmp_path / "step-00000002.partial-0a"

    class Racing(QuickFiles):
        """Another attempt begins between our tidying up and our first folder."""

        def free_bytes(self, path: Path) -> int:
            (other / "weights").mkdir(parents=True)
            (other / "weights" / "file").write_bytes(b"theirs")
            return super().free_bytes(path)

    with pytest.raises(SaveError, match="File exists"):
        save_alone(tmp_path, 2, disk=quick_disk(Racing()))
    assert (other / "weights" / "file").read_bytes() == b"theirs"
