"""Which checkpoints the rules keep."""

from pathlib import Path

import pytest
from checkpoint_doubles import quick_disk, save_dealt
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mypt_dist.checkpoint import CheckpointStore, Retention
from mypt_dist.checkpoint.retention import Kept, victims
from mypt_dist.world import Solo


def kept(step: int, **metrics: float) -> Kept:
    return Kept(Path(f"step-{step}"), step, metrics)


def left(rules: Retention, valid: list[Kept]) -> list[int]:
    gone = {victim.step for victim in victims(rules, valid)}
    return sorted(one.step for one in valid if one.step not in gone)


def test_the_newest_are_kept_by_number_whatever_the_order() -> None:
    assert left(Retention(keep_last=2), [kept(3), kept(10), kept(1), kept(7)]) == [7, 10]


def test_every_kth_is_kept_for_ever() -> None:
    assert left(Retention(keep_last=2, keep_every=50), [kept(step) for step in range(0, 201, 25)]) == [
        0,
        50,
        100,
        150,
        175,
        200,
    ]


def test_the_best_is_kept_and_of_equals_the_newest() -> None:
    valid = [kept(1, loss=2.0), kept(2, loss=1.0), kept(3, loss=1.0), kept(4, loss=3.0), kept(5)]
    assert left(Retention(keep_last=2, keep_best="loss"), valid) == [3, 4, 5]


def test_without_the_metric_no_best_is_kept() -> None:
    valid = [kept(1, loss=2.0), kept(2), kept(3)]
    assert left(Retention(keep_last=2, keep_best="other"), valid) == [2, 3]
    assert left(Retention(keep_last=2, keep_best=None), valid) == [2, 3]


def test_the_defaults_are_three_and_the_best_by_validation_loss() -> None:
    assert Retention() == Retention(keep_last=3, keep_every=None, keep_best="val/loss")


@pytest.mark.parametrize("wrong", [{"keep_last": 0}, {"keep_last": 1}, {"keep_every": 0}, {"keep_lsat": 2}])
def test_rules_that_keep_nothing_or_are_unknown_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Retention.model_validate(wrong)


@given(st.sets(st.integers(0, 100)), st.integers(2, 5), st.none() | st.integers(1, 20))
def test_the_newest_always_stays_and_victims_are_told_oldest_first(
    steps: set[int], last: int, every: int | None
) -> None:
    gone = [victim.step for victim in victims(Retention(keep_last=last, keep_every=every), [kept(s) for s in steps])]
    assert gone == sorted(gone)
    assert not set(gone) & set(sorted(steps)[-last:])
    assert not every or not [step for step in gone if step % every == 0]


def test_a_run_keeps_what_the_rules_say(tmp_path: Path) -> None:
    rules = Retention(keep_last=2, keep_every=4, keep_best="val/loss")
    store = CheckpointStore(tmp_path, Solo(), rules, disk=quick_disk())
    for step in range(1, 10):
        save_dealt(store, Solo(), step, {}, **{"val/loss": abs(step - 3) + 1.0})
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == [3, 4, 8, 9]


def test_what_is_not_a_checkpoint_of_ours_is_never_deleted(tmp_path: Path) -> None:
    foreign = ["step-7", "step-00000001.bak", "step-1234567x", "notes", "step-000000001", "step-00000003.corrupt"]
    for name in foreign:
        (tmp_path / name).mkdir(parents=True)
    store = CheckpointStore(tmp_path, Solo(), Retention(keep_last=2), disk=quick_disk())
    for step in (1, 2, 3):
        save_dealt(store, Solo(), step, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*foreign, "step-00000002", "step-00000003"])
