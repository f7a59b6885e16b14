"""What a run makes of its saves: when they count, what a failure costs, when it gives up."""

import errno
import os
from pathlib import Path

import pytest
import torch
from checkpoint_doubles import on_ranks, run_ranks
from run_saving_doubles import Record, rank

from mypt_dist.checkpoint import CheckpointConfig
from mypt_dist.checkpoint.agreement import Failure
from mypt_dist.checkpoint.remedies import remedy
from mypt_dist.engine import LocalTensor
from mypt_dist.errors import LockError, SaveError
from mypt_dist.run.checkpointing import copy_into
from mypt_dist.training.state import TrainState
from mypt_dist.world import Solo, World


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize("background", [True, False])
def test_a_checkpoint_is_told_of_when_it_is_committed_with_its_numbers(tmp_path: Path, background: bool) -> None:
    def run(world: World) -> tuple[Record, Path]:
        one = rank(tmp_path, world, background=background)
        one.train(25)
        last = one.saving.finish(TrainState(25), {})
        one.saving.close()
        return one.record, last

    for record, last in on_ranks(2, run):
        assert record.steps == [10, 20, 25]
        assert last.name == "step-00000025"
        assert [step for step, _ in record.of("checkpoint/last_committed_step")] == [10, 20, 25]
        assert all(value > 0 for _, value in record.of("checkpoint/stall_ms"))
        assert all(value > 0 for _, value in record.of("checkpoint/duration_s"))
        assert all(value > 0 for _, value in record.of("checkpoint/bytes"))
    assert names(tmp_path) == ["step-00000010", "step-00000020", "step-00000025"]


def test_a_state_that_is_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    one = rank(tmp_path, Solo())
    one.train(10)
    assert one.saving.finish(TrainState(10), {}).name == "step-00000010"
    assert one.record.steps == [10]


def test_an_older_save_in_flight_is_finished_before_the_last_one(tmp_path: Path) -> None:
    one = rank(tmp_path, Solo())
    one.train(10)
    assert one.saving.finish(TrainState(11), {}).name == "step-00000011"
    assert one.record.steps == [10, 11]


@pytest.mark.parametrize("background", [True, False])
def test_a_failed_save_is_loud_harmless_and_tried_again(
    tmp_path: Path, background: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def run(world: World) -> Record:
        one = rank(tmp_path, world, background=background)
        one.train(19)
        one.files.error = OSError(errno.ENOSPC, "No space left on device") if world.rank else None
        one.train(6, first=20)
        assert world.rank or [name for name in names(tmp_path) if "partial" not in name] == ["step-00000010"]
        one.files.error = None
        one.train(15, first=26)
        return one.record

    for record in on_ranks(2, run):
        assert next(step for step in record.steps if step > 10) in range(21, 28)
        assert record.of("checkpoint/failures")[0] == (20, 1.0)
    text = caplog.text
    assert "the checkpoint of step 20 was not saved: rank 1: [Errno 28] No space left on device" in text
    assert "The older ones are intact, training goes on, the next try is at step" in text
    assert "free space or inodes" in text
    assert text.count("of step 20 was not saved") == 1, "rank 0 alone tells it"


@pytest.mark.parametrize("background", [True, False])
def test_too_many_failures_in_a_row_end_the_run_on_all_ranks(tmp_path: Path, background: bool) -> None:
    def run(world: World) -> None:
        one = rank(tmp_path, world, background=background, max_failures=3)
        one.train(19)
        one.files.error = OSError(errno.EROFS, os.strerror(errno.EROFS)) if world.rank else None
        one.train(200, first=20)

    for outcome in run_ranks(2, run):
        assert isinstance(outcome, SaveError)
        assert outcome.exit_code == 5
        assert "3 in a row have failed (checkpoints.max_failures)" in str(outcome)
        assert "mounted read-only" in str(outcome)
    assert names(tmp_path) == ["step-00000010"]


def test_a_success_in_between_starts_the_count_anew(tmp_path: Path) -> None:
    one = rank(tmp_path, Solo(), max_failures=2)
    for step in range(1, 91):
        fails = one.saving.failures <= step // 30
        one.files.error = OSError(errno.EIO, "Input/output error") if fails else None
        one.train(1, first=step)
    assert one.saving.failures == 3
    assert one.saving.cadence.failures == 0


def test_the_last_save_of_a_run_must_succeed(tmp_path: Path) -> None:
    one = rank(tmp_path, Solo())
    one.train(10)
    one.files.error = OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(SaveError, match=r"step 13 was not saved.*quota"):
        one.saving.finish(TrainState(13), {})


def test_a_save_in_flight_that_fails_at_the_end_does_not_hide_that_the_last_one_succeeds(tmp_path: Path) -> None:
    one = rank(tmp_path, Solo(), max_failures=1)
    one.train(9)
    one.saving.heard(one.saving.vote())
    one.saving.begin(TrainState(10), {})
    one.writer.killed = 1
    assert one.saving.finish(TrainState(10), {}).name == "step-00000010"
    assert one.record.of("checkpoint/failures") == [(10, 1)]
    assert one.record.steps == [10]


def test_a_save_that_comes_too_early_is_put_off_counted_and_made_up_for(tmp_path: Path) -> None:
    def run(world: World) -> Record:
        one = rank(tmp_path, world)
        one.writer.late = True
        one.train(24)
        one.writer.late = False
        one.train(15, first=25)
        return one.record

    for record in on_ranks(2, run):
        assert record.of("checkpoint/skipped")[0] == (20, 1)
        assert record.steps[0] == 10
        assert 25 < record.steps[1] < 30


def test_a_save_can_wait_for_the_earlier_one(tmp_path: Path) -> None:
    def run(world: World) -> Record:
        one = rank(tmp_path, world, wait_s=30)
        one.train(9)
        one.saving.begin(TrainState(10), {})
        one.saving.begin(TrainState(11), {})
        assert one.saving.skipped == 0
        one.saving.settle()
        one.writer.late = True
        one.saving.begin(TrainState(12), {})
        one.saving.config = CheckpointConfig(wait_s=0.05)
        one.saving.begin(TrainState(13), {})
        assert one.saving.skipped == 1
        one.writer.late = False
        one.saving.settle()
        return one.record

    for record in on_ranks(2, run):
        assert record.steps == [10, 11, 12]


def test_auto_agrees_on_an_interval_from_what_a_save_cost(tmp_path: Path) -> None:
    def run(world: World) -> tuple[list[tuple[int, float]], int]:
        one = rank(tmp_path, world, every=None, mtbf_hours=1e-9)
        one.train(150)
        one.saving.settle()
        return one.record.of("checkpoint/interval"), one.saving.cadence.interval

    one, other = on_ranks(2, run)
    assert one == other
    assert one[0][0][0] == 100, "the first guess"
    assert one[1] >= 1


def test_a_lost_lock_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rank(tmp_path, Solo())
    monkeypatch.setattr("mypt_dist.checkpoint.writer.Worker._may_commit", lambda self: False)
    with pytest.raises(LockError, match="taken this run over"):
        one.train(20)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("numbers", "advice"),
    [([28], "free space"), ([0, 12], "checkpoints.background=false"), ([0], "see the lines above"), ([24], "ulimit")],
)
def test_there_is_advice_for_what_the_system_says(numbers: list[int], advice: str) -> None:
    assert advice in remedy([Failure(0, "OSError", "", number) for number in numbers])


@pytest.mark.parametrize("background", [True, False])
def test_of_ephemeral_checkpoints_only_the_newest_stays(tmp_path: Path, background: bool) -> None:
    one = rank(tmp_path, Solo(), every=20, background=background, ephemeral_every=5, keep_last=2, keep_best=None)
    seen = {}
    for step in range(1, 58):
        one.train(1, first=step)
        seen[step] = [int(name[5:]) for name in names(tmp_path) if "partial" not in name and "trash" not in name]
    assert (seen[9], seen[14], seen[19]) == ([5], [10], [15])
    assert seen[24] == [20]
    assert seen[39] == [20, 35]
    assert seen[54] == [20, 40, 50]
    one.saving.finish(TrainState(58), {})
    assert [int(name[5:]) for name in names(tmp_path)] == [40, 58]


def test_tensors_of_any_type_are_copied_to_their_offsets() -> None:
    flats = [torch.rand(3), torch.rand(5).to(torch.bfloat16), torch.tensor([7]), torch.rand(2).double()]
    tensors = [LocalTensor(f"model/{n}", tuple(flat.shape), 0, flat) for n, flat in enumerate(flats)]
    memory, offsets = memoryview(bytearray(256)), [0, 64, 128, 192]
    copy_into(tensors, memory, offsets)
    expected = [flat.view(torch.uint8).numpy().tobytes() for flat in flats]
    for flat in flats:
        flat.zero_()
    assert [bytes(memory[at : at + len(one)]) for at, one in zip(offsets, expected, strict=True)] == expected
    copy_into([], memoryview(b""), [])
