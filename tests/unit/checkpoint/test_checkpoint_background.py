"""A save while training goes on: stages, agreement, copies, failures of any rank."""

import errno
from pathlib import Path

import numpy as np
import pytest
from background_doubles import InlineWriter, copy, save, share, sums, train
from checkpoint_doubles import (
    FaultyFiles,
    QuickFiles,
    on_ranks,
    quick_disk,
    random_state,
    read_whole,
    run_ranks,
    same,
    save_alone,
)

from mypt_dist.checkpoint import (
    BackgroundSaves,
    CheckpointStore,
    Disk,
    Dropped,
    NotAgreedError,
    Outcome,
    Retention,
    Saved,
    Segment,
    open_checkpoint,
    verify_checkpoint,
)
from mypt_dist.checkpoint.background import layout
from mypt_dist.errors import SaveError
from mypt_dist.world import Solo, World


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def begun(root: Path, world: World, disk: Disk | None = None) -> tuple[BackgroundSaves, InlineWriter]:
    writer = InlineWriter(root, world, disk)
    return BackgroundSaves(world, writer, timeout_s=60), writer


@pytest.mark.parametrize("size", [1, 2, 3])
def test_it_saves_what_a_blocking_save_does(tmp_path: Path, size: int) -> None:
    def run(world: World) -> tuple[Outcome, list[str]]:
        saves, writer = begun(tmp_path, world)
        return save(saves, world, share(world, 7, loss=0.5)), writer.orders

    outcomes = on_ranks(size, run)
    told = [outcome for outcome, _ in outcomes]
    assert told == [told[0]] * size, "all ranks know the same of it"
    assert isinstance(told[0], Saved)
    assert (told[0].step, told[0].name) == (7, "step-00000007")
    assert [orders for _, orders in outcomes] == [["open", "write", "commit", "retire"], *[["write"]] * (size - 1)]
    assert verify_checkpoint(tmp_path / "step-00000007") == []
    with open_checkpoint(tmp_path) as found:
        assert same(read_whole(found), random_state(7))
        assert found.manifest.metrics == {"loss": 0.5}
        assert found.manifest.world_size == size
    if size == 1:
        twin = save_alone(tmp_path / "blocking", 7)
        ours = {path.name: path.read_bytes() for path in (tmp_path / "step-00000007").rglob("*.safetensors")}
        assert ours == {path.name: path.read_bytes() for path in twin.rglob("*.safetensors")}


def test_nothing_is_committed_before_all_ranks_have_voted_and_then_all_hear_it_in_one_step(tmp_path: Path) -> None:
    def run(world: World) -> list[list[str]]:
        saves, writer = begun(tmp_path, world)
        saves.begin(share(world, 1))
        writer.late = world.rank == 1
        seen = []
        for step in range(12):
            writer.late = writer.late and step < 6
            heard = saves.heard(sums(world, saves.vote()))
            seen.append([type(heard).__name__, *(name for name in names(tmp_path) if "partial" not in name)])
        assert not saves.in_flight
        return seen

    one, other = on_ranks(2, run)
    assert [row[0] for row in one] == [row[0] for row in other]
    assert all(row == ["NoneType"] for row in one[:6])
    assert ["Saved", "step-00000001"] in one


def test_what_is_trained_on_during_the_write_does_not_change_the_bytes(tmp_path: Path) -> None:
    state = random_state(1)
    before = {name: array.copy() for name, array in state.items()}
    saves, _ = begun(tmp_path, Solo())
    saves.begin(share(Solo(), 1, state))
    change(state)
    assert [type(outcome) for outcome in train(saves, Solo())] == [Saved]
    with open_checkpoint(tmp_path) as found:
        assert same(read_whole(found), before)
    assert not same(state, before)


def change(state: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    for array in state.values():
        array[...] = 1


def test_without_the_copy_they_would(tmp_path: Path) -> None:
    """The twin: bytes that are fetched when they are written are those of a later step."""
    state = random_state(1)
    before = {name: array.copy() for name, array in state.items()}
    saves, writer = begun(tmp_path, Solo())

    def postpone(segments: list[Segment], memory: memoryview, offsets: list[int]) -> None:
        plain = writer._worker._read

        def read(size: int) -> memoryview:
            copy(segments, memory, offsets)
            return plain(size)

        writer._worker._read = read

    saves.begin(share(Solo(), 1, state, postpone))
    change(state)
    assert [type(outcome) for outcome in train(saves, Solo())] == [Saved]
    with open_checkpoint(tmp_path) as found:
        assert not same(read_whole(found), before)


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("call", ["create", "write", "sync"])
def test_a_failure_on_one_rank_drops_the_attempt_on_all_and_the_next_save_succeeds(
    tmp_path: Path, broken: int, call: str
) -> None:
    save_alone(tmp_path, 1)

    def run(world: World) -> list[Outcome]:
        faulty = FaultyFiles(0, OSError(errno.ENOSPC, "No space left on device"), only=call)
        disk = quick_disk(faulty if world.rank == broken else None)
        saves, _ = begun(tmp_path, world, disk)
        first = save(saves, world, share(world, 2))
        left = names(tmp_path) if world.rank == 0 else []
        world.all_gather(None)
        assert left in ([], ["step-00000001"])
        return [first, save(saves, world, share(world, 3))]

    one, other = on_ranks(2, run)
    for dropped, saved in (one, other):
        assert isinstance(dropped, Dropped)
        assert [(failure.rank, failure.errno) for failure in dropped.error.failures] == [(broken, errno.ENOSPC)]
        assert isinstance(saved, Saved)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_rank_whose_copy_fails_begins_nothing_anywhere(tmp_path: Path) -> None:
    def run(world: World) -> list[str]:
        def fill(segments: object, memory: memoryview, offsets: object) -> None:
            if world.rank == 1:
                raise MemoryError

        saves, writer = begun(tmp_path, world)
        with pytest.raises(NotAgreedError, match="rank 1: MemoryError") as caught:
            saves.begin(share(world, 1, fill=fill))
        assert caught.value.failures[0].errno == errno.ENOMEM
        assert not saves.in_flight
        return writer.orders

    assert on_ranks(2, run) == [[], []]
    assert names(tmp_path) == []


def test_ranks_at_different_steps_are_noticed(tmp_path: Path) -> None:
    def run(world: World) -> None:
        saves, _ = begun(tmp_path, world)
        saves.begin(share(world, 1 + world.rank))

    for outcome in run_ranks(2, run):
        assert isinstance(outcome, NotAgreedError)
        assert "different steps" in str(outcome)


def test_a_number_that_json_does_not_have_fails_the_save_not_the_run(tmp_path: Path) -> None:
    saves, _ = begun(tmp_path, Solo())
    bad = share(Solo(), 1)
    bad.description["metrics"]["loss"] = float("nan")  # type: ignore[index,call-overload]
    outcome = save(saves, Solo(), bad)
    assert isinstance(outcome, Dropped)
    assert names(tmp_path) == []


def test_a_disk_that_never_answers_is_given_up_after_a_time(tmp_path: Path) -> None:
    now = [0.0]
    writer = InlineWriter(tmp_path, Solo())
    writer.late = True
    saves = BackgroundSaves(Solo(), writer, timeout_s=60, clock=lambda: now[0])
    saves.begin(share(Solo(), 1))
    now[0] = 59
    assert saves.heard(saves.vote()) is None
    assert not writer.killed
    now[0] = 61
    outcome = saves.heard(saves.vote())
    assert isinstance(outcome, Dropped)
    assert "no answer from the disk for 60 s" in str(outcome.error)
    assert writer.killed == 1


def test_votes_are_of_the_same_number_whatever_happens(tmp_path: Path) -> None:
    saves, writer = begun(tmp_path, Solo())
    assert saves.vote() == (0, 0)
    assert saves.heard((0, 0)) is None
    writer.late = True
    saves.begin(share(Solo(), 1))
    assert saves.vote() == (0, 0)
    writer.late = False
    assert saves.vote() == (1, 0)
    saves.close()
    assert writer.killed == 1
    assert saves.vote() == (0, 0)


def test_older_checkpoints_go_only_after_the_commit_and_by_the_rules(tmp_path: Path) -> None:
    writer = InlineWriter(tmp_path, Solo(), rules=Retention(keep_last=2, keep_best=None))
    saves = BackgroundSaves(Solo(), writer, timeout_s=60)
    for step in (1, 2):
        save(saves, Solo(), share(Solo(), step))
    saves.begin(share(Solo(), 3))
    seen = []
    while saves.in_flight:
        saves.heard(saves.vote())
        seen.append([name for name in names(tmp_path) if "partial" not in name])
    one, two, three = (f"step-0000000{step}" for step in (1, 2, 3))
    assert seen == [[one, two], [one, two], [one, two, three], [two, three]]


def test_room_is_asked_for_before_anything_is_made(tmp_path: Path) -> None:
    class Full(QuickFiles):
        def free_bytes(self, path: Path) -> int:
            return 500

    class NoInodes(QuickFiles):
        def free_inodes(self, path: Path) -> int:
            return 9

    for files, reason in ((Full(), "500 bytes free"), (NoInodes(), "9 inodes free")):
        saves, _ = begun(tmp_path, Solo(), quick_disk(files))
        outcome = save(saves, Solo(), share(Solo(), 1))
        assert isinstance(outcome, Dropped)
        assert reason in str(outcome.error)
        assert outcome.error.failures[0].errno == errno.ENOSPC
        with pytest.raises(SaveError, match=reason):
            save_alone(tmp_path, 1, disk=quick_disk(files))
    assert names(tmp_path) == []


def test_offsets_are_aligned_and_do_not_overlap() -> None:
    segments = [Segment("model/a", (n,), "U8", 0, n, bytes) for n in (1, 64, 65, 0)]
    assert layout(segments) == ([0, 64, 128, 256], 256)


def test_blocking_and_background_saves_of_one_run_find_each_other(tmp_path: Path) -> None:
    saves, _ = begun(tmp_path, Solo())
    save(saves, Solo(), share(Solo(), 1))
    save_alone(tmp_path, 2)
    save(saves, Solo(), share(Solo(), 3))
    found = CheckpointStore(tmp_path, Solo(), disk=quick_disk()).latest()
    assert found is not None
    assert found.manifest.step == 3
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
