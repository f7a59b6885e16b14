"""A checkpoint may be whole and still not be one to go back to."""

import logging
from pathlib import Path

import pytest
from checkpoint_doubles import on_ranks, quick_disk, random_state, read_whole, run_ranks, same, save_alone, save_dealt
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.checkpoint import CheckpointStore, Retention, list_checkpoints
from mypt_dist.checkpoint.retention import Kept, victims
from mypt_dist.errors import CheckpointError, LockError
from mypt_dist.world import Solo, World


def names(root: Path) -> list[str]:
    return sorted(path.name.partition("-")[2].partition("-")[0] for path in root.iterdir())


def store(root: Path, world: World | None = None, rules: Retention | None = None) -> CheckpointStore:
    return CheckpointStore(root, world or Solo(), rules or Retention(keep_last=9), disk=quick_disk())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 1 to 4, of which the last two are not healthy."""
    for step in (1, 2, 3, 4):
        save_dealt(store(tmp_path), Solo(), step, random_state(step), healthy=step < 3)
    return tmp_path


@pytest.mark.parametrize("size", [1, 2])
def test_the_newest_healthy_one_is_found_by_all_ranks(run: Path, size: int) -> None:
    for found in on_ranks(size, lambda world: store(run, world).latest(healthy=True)):
        assert found is not None
        assert found.manifest.step == 2
        assert same(read_whole(found), random_state(2))
    newest = store(run).latest()
    assert newest is not None
    assert newest.manifest.step == 4
    assert names(run) == ["00000001", "00000002", "00000003", "00000004"]


def test_a_corrupt_healthy_one_is_set_aside_and_the_healthy_one_before_it_found(run: Path) -> None:
    (run / "step-00000002" / "tokenizer.json").unlink()
    found = store(run).latest(healthy=True)
    assert found is not None
    assert found.manifest.step == 1


def test_where_none_is_healthy_there_is_none(tmp_path: Path) -> None:
    save_dealt(store(tmp_path), Solo(), 1, {}, healthy=False)
    assert store(tmp_path).latest(healthy=True) is None


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(2, 4))
def test_the_newest_healthy_one_is_never_deleted(healthy: list[bool], last: int) -> None:
    valid = [Kept(Path(str(step)), step, {}, good) for step, good in enumerate(healthy)]
    gone = {one.step for one in victims(Retention(keep_last=last), valid)}
    good = [step for step, fine in enumerate(healthy) if fine]
    assert not gone & {len(healthy) - 1, *good[-1:]}
    assert len(healthy) - len(gone) <= last + 1


def test_a_storm_of_bad_numbers_does_not_rotate_out_the_one_to_go_back_to(tmp_path: Path) -> None:
    rules = Retention(keep_last=2, keep_best=None)
    for step in range(1, 8):
        save_dealt(store(tmp_path, rules=rules), Solo(), step, random_state(step), healthy=step < 3)
    assert names(tmp_path) == ["00000002", "00000006", "00000007"]


def test_without_looking_at_health_a_storm_does_rotate_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = lambda rules, valid: victims(rules, [Kept(k.folder, k.step, k.metrics) for k in valid])  # noqa: E731
    monkeypatch.setattr("mypt_dist.checkpoint.housekeeping.victims", forgetful)
    rules = Retention(keep_last=2, keep_best=None)
    for step in range(1, 8):
        save_dealt(store(tmp_path, rules=rules), Solo(), step, random_state(step), healthy=step < 3)
    assert store(tmp_path).latest(healthy=True) is None


@pytest.mark.parametrize("size", [1, 3])
def test_going_back_puts_later_ones_aside_until_the_run_is_as_far_again(
    run: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        undone = on_ranks(size, lambda world: store(run, world).set_back(2))
    assert undone == [["step-00000004", "step-00000003"]] * size
    assert "back to step 2: no longer counted are step-00000004, step-00000003" in caplog.text
    assert names(run) == ["00000001", "00000002", "00000003.undone", "00000004.undone"]
    newest = store(run).latest()
    assert newest is not None
    assert newest.manifest.step == 2
    told = [(summary.step, summary.healthy, summary.problem) for summary in list_checkpoints(run)]
    assert told[1:3] == [(2, True, None), (3, False, "was undone: the run went back before it")]
    save_alone(run, 3)
    assert names(run) == ["00000001", "00000002", "00000003", "00000004.undone"]
    save_alone(run, 5)
    assert names(run) == ["00000001", "00000002", "00000003", "00000005"]


def test_going_back_twice_does_nothing_more(run: Path) -> None:
    store(run).set_back(2)
    assert store(run).set_back(2) == []


def test_one_can_not_go_back_to_what_is_not_there_or_not_whole(run: Path) -> None:
    (run / "step-00000002" / "tokenizer.json").unlink()
    before = sorted(path.name for path in run.iterdir())
    for step, reason in ((9, "there is no checkpoint of step 9"), (2, r"tokenizer\.json is missing")):
        for outcome in run_ranks(2, lambda world, step=step: store(run, world).set_back(step)):
            assert isinstance(outcome, CheckpointError)
            with pytest.raises(CheckpointError, match=reason):
                raise outcome
    lost = CheckpointStore(run, Solo(), may_commit=lambda: False, disk=quick_disk())
    with pytest.raises(LockError):
        lost.set_back(1)
    assert sorted(path.name for path in run.iterdir()) == before
