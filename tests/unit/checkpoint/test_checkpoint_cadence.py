"""When to save: fixed steps, the optimum, what is put off, what failed."""

import math

import pytest

from mypt_dist.checkpoint import Cadence, best_interval_s, in_steps


def dues(cadence: Cadence, first: int, last: int, busy: bool = False) -> list[int]:
    return [step for step in range(first, last + 1) if cadence.due(step, busy=busy)]


def test_fixed_steps_are_multiples() -> None:
    assert dues(Cadence(5), 1, 16) == [5, 10, 15]


@pytest.mark.parametrize("stall_s", [0.01, 0.3, 20.0])
@pytest.mark.parametrize("mtbf_s", [3600.0, 86400.0])
def test_the_best_interval_loses_less_than_any_other(stall_s: float, mtbf_s: float) -> None:
    def lost(interval_s: float) -> float:
        """Share of time: a stall in every interval, and half an interval for every failure."""
        return stall_s / interval_s + interval_s / 2 / mtbf_s

    best = best_interval_s(stall_s, 0.0, mtbf_s)
    assert best == math.sqrt(2 * stall_s * mtbf_s)
    assert all(lost(best) < lost(best * factor) for factor in (0.5, 0.9, 1.1, 2))


def test_an_interval_is_never_shorter_than_a_save_nor_than_a_step() -> None:
    assert best_interval_s(0.0, 12.0, 3600.0) == 12.0
    assert in_steps(10.0, 0.25) == 40
    assert in_steps(1.0, 30.0) == 1
    assert in_steps(1.0, 0.0) == 10**9


def test_auto_starts_with_a_guess_and_counts_from_the_newest_checkpoint() -> None:
    cadence = Cadence(None, last=40)
    assert dues(cadence, 41, 140) == [140]
    cadence.begun(140)
    cadence.adapt(7)
    assert dues(cadence, 141, 147) == [147]
    fixed = Cadence(5)
    fixed.adapt(7)
    assert fixed.interval == 5


def test_what_is_put_off_follows_as_soon_as_the_disk_is_free() -> None:
    cadence = Cadence(5)
    cadence.begun(5)
    assert dues(cadence, 6, 10, busy=True) == [10]
    cadence.put_off(10)
    assert dues(cadence, 11, 14, busy=True) == []
    assert cadence.due(12, busy=False)
    cadence.begun(12)
    assert dues(cadence, 13, 15) == [15]


def test_failed_saves_are_tried_again_sooner_than_the_next_one_but_ever_later() -> None:
    cadence = Cadence(100)
    cadence.begun(100)
    tries, step = [], 101
    for _ in range(5):
        again = cadence.failed(step)
        assert dues(cadence, step, again) == [again], "save points in between are passed over"
        assert not cadence.due(again, busy=True), "what failed is still being deleted"
        tries.append(again - step)
        cadence.begun(again)
        step = again
    assert tries == [10, 20, 40, 80, 160]
    assert cadence.failures == 5
    cadence.saved()
    assert cadence.failures == 0
    assert cadence.failed(step) == step + 10
    assert Cadence(3).failed(7) == 8


def test_between_regular_saves_there_are_ephemeral_ones() -> None:
    cadence = Cadence(10, ephemeral_every=4)
    assert dues(cadence, 1, 20) == [4, 8, 10, 12, 16, 20]
    assert [step for step in range(1, 21) if cadence.due(step, busy=False) and not cadence.is_ephemeral(step)] == [
        10,
        20,
    ]
    assert not Cadence(10).is_ephemeral(4), "without them none is"
    auto = Cadence(None, ephemeral_every=60)
    auto.begun(60)
    assert dues(auto, 61, 100) == [100], "an ephemeral save does not put the regular one off"


@pytest.mark.parametrize("kind", ["put off", "failed"])
def test_what_makes_up_for_a_regular_save_is_not_ephemeral(kind: str) -> None:
    cadence = Cadence(10, ephemeral_every=4)
    cadence.begun(8)
    if kind == "put off":
        cadence.put_off(10)
    else:
        cadence.begun(10)
        cadence.failed(10)
    assert cadence.due(11, busy=False)
    assert not cadence.is_ephemeral(11)
    cadence.begun(11)
    assert cadence.is_ephemeral(12)
    cadence.put_off(12)
    assert cadence.is_ephemeral(13), "and what makes up for an ephemeral one is"
